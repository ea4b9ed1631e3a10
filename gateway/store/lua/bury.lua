-- Keep a message nobody can deal with. A: owner, id, reason, group, meta (the members of a JSON object), body (base64).
-- The same message again counts and is not kept twice. Answers 1 when it is new, else 0.
local key = dead_message_key(A.owner, A.id)
if redis.call('EXISTS', key) == 1 then
  redis.call('HINCRBY', key, 'n', 1)
  redis.call('HSET', key, 'l', NOW)
  return 0
end
local raw, books = dead_group_key(A.owner, 'raw'), P .. 'deadx:' .. A.owner
while redis.call('ZCARD', raw) >= RAW_MOST
  or tonumber(redis.call('HGET', books, 'bytes') or 0) + #A.body > RAW_BYTES do
  if not dead_drop(A.owner, raw) then break end
end
local entry = A.id .. ' ' .. A.group[1]
redis.call('HSET', key, 'm', A.meta, 'b', A.body, 'r', A.reason, 'g', A.group[1], 't', NOW, 'l', NOW, 'n', 1)
redis.call('HINCRBY', books, 'bytes', #A.body)
redis.call('ZADD', raw, NOW, entry)
redis.call('ZADD', P .. 'deadraw', NOW, A.owner .. ' ' .. entry)
dead_enter(A.owner, A.id, A.reason, A.group)
return 1
