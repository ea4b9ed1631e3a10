-- A server that was restarted may know less than happened: a job it calls queued may have been run, and its message be
-- gone. Once per generation all queued jobs are looked at soon instead of after an hour, a part of them in each call.
-- A: delay_ms, limit. Answers 1 when there is more to do.
local gen, todo = generation(), P .. 'recheck'   -- todo: {pool: queued since when, of those not looked at}
if redis.call('HGET', P .. 'gen', 'rechecked') ~= gen then
  for _, task in ipairs(redis.call('HVALS', P .. 'types')) do redis.call('HSET', todo, cmsgpack.unpack(task).po, 0) end
  redis.call('HSET', P .. 'gen', 'rechecked', gen)
end

local pool, from = unpack(redis.call('HGETALL', todo))
if not pool then return 0 end
local found = redis.call('ZRANGEBYSCORE', P .. 'queued:' .. pool, from, '+inf', 'WITHSCORES', 'LIMIT', 0, A.limit)
for i = 1, #found, 2 do redis.call('ZADD', P .. 'due', 'XX', 'LT', NOW + A.delay_ms, found[i]) end
if #found < 2 * A.limit then
  redis.call('HDEL', todo, pool)
else
  local last = found[#found]
  redis.call('HSET', todo, pool, last == from and '(' .. last or last)
end
return redis.call('EXISTS', todo)
