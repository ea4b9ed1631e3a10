-- How much there is and how fast jobs end, for those who are refused. A: pool and priority, or tenant, or none (the shard).
-- Answers {jobs queued in the pool, or open of the tenant, or due in the shard; jobs like these that ended in the last
-- window_ms, estimated from the newest}. A: window_ms. The estimate is kept for a second: who sheds load has none to give.
local SAMPLE = 50
local count
if A.pool then
  count = redis.call('ZCARD', P .. 'queued:' .. A.pool)
elseif A.tenant then
  count = tonumber(redis.call('HGET', P .. 'open', A.tenant) or 0)
else
  count = count_due()
end

local key = P .. 'ends:' .. (A.pool and A.pool .. '.' .. A.priority or A.tenant or '')
local kept = redis.call('GET', key)
if kept then return {count, tonumber(kept)} end
local since = NOW - A.window_ms
local newest = redis.call('ZREVRANGEBYSCORE', P .. 'ended', '+inf', since, 'LIMIT', 0, SAMPLE)
local alike = 0
for _, entry in ipairs(newest) do
  local tenant, id = string.match(entry, '^(%S+) (%S+)$')
  local j = readable_job(tenant, id)
  if j and (not A.tenant or tenant == A.tenant) and (not A.pool or (j.po == A.pool and j.pr == A.priority)) then
    alike = alike + 1
  end
end
local ended = redis.call('ZCOUNT', P .. 'ended', since, '+inf')
local estimate = #newest > 0 and math.floor(ended * alike / #newest + 0.5) or 0
redis.call('SET', key, estimate, 'PX', 1000)
return {count, estimate}
