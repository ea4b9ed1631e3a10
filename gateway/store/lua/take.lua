-- Take tokens out of a tenant's bucket: A.tenant, A.rate (tokens per second), A.burst (its size), A.want.
-- Answers how many were taken (0 to A.want), and if none, in how many ms there will be one.
local key = P .. 'rate:' .. A.tenant
local known = redis.call('HMGET', key, 'tokens', 'at')
local tokens = A.burst
if known[1] then
  tokens = math.min(A.burst, tonumber(known[1]) + math.max(0, NOW - tonumber(known[2])) * A.rate / 1000)
end
local taken = math.min(A.want, math.floor(tokens))
redis.call('HSET', key, 'tokens', string.format('%.6f', tokens - taken), 'at', string.format('%.0f', NOW))
redis.call('PEXPIRE', key, math.ceil(A.burst / A.rate * 1000) + 1000)   -- by then it is full, as a new one
return {taken, taken > 0 and 0 or math.ceil((1 - tokens) / A.rate * 1000)}
