-- A queue that forgot its messages (the in-process one, after a restart): whatever was queued in a pool is due
-- again. A: pool, limit. Answers how many were left to do before this call.
local key = P .. 'queued:' .. A.pool
local count = redis.call('ZCARD', key)
for _, entry in ipairs(redis.call('ZRANGE', key, 0, A.limit - 1)) do
  local tenant, id = string.match(entry, '^(%S+) (%S+)$')
  local j = readable_job(tenant, id)
  redis.call('ZREM', key, entry)
  if j and j.st == 'queued' then unqueue(j, NOW) end
end
return count
