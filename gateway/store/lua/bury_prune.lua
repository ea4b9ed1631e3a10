-- Forget messages that were kept for long enough. A: retention_ms, limit. Answers how many.
local old = redis.call('ZRANGEBYSCORE', P .. 'deadraw', '-inf', NOW - A.retention_ms, 'LIMIT', 0, A.limit)
for _, entry in ipairs(old) do
  local owner, id, group = string.match(entry, '^(%S*) (%S+) (%S+)$')
  if not dead_leave(owner, id, group) then redis.call('ZREM', P .. 'deadraw', entry) end
end
return #old
