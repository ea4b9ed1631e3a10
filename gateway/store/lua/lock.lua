-- A leased lock of a tenant. A: tenant, name, owner, to ('take', 'keep', 'free'), ttl_ms.
-- Answers {fence, ms until the holder's lease ends}: the fence is 0 when it is not the owner's. It grows with every
-- taking, and begins with the clock in microseconds, so that it grows also past what was forgotten.
local key = P .. 'lock:' .. A.tenant .. ':' .. A.name
local known = redis.call('HMGET', key, 'owner', 'until', 'fence')
local ends, fence = tonumber(known[2] or 0), tonumber(known[3] or 0)
local mine = known[1] == A.owner
if A.to == 'free' then
  if mine then redis.call('HDEL', key, 'owner', 'until') end
  return {mine and fence or 0, 0}
end
if not mine then
  if A.to == 'keep' or (known[1] and ends > NOW) then return {0, math.max(0, ends - NOW)} end
  local time = redis.call('TIME')
  fence = math.max(fence + 1, time[1] * 1000000 + time[2])
end
redis.call('HSET', key, 'owner', A.owner, 'until', NOW + A.ttl_ms, 'fence', fence)
redis.call('PEXPIRE', key, A.ttl_ms + 86400000)
return {fence, A.ttl_ms}
