-- Act on what is due. A: limit, lease_ms (for whoever publishes), publish (false while the broker is away).
-- Answers {ms until the next entry, or -1; number of lost leases; messages to publish …}.
local answer, lost = {0, 0}, 0

local function recover(j)
  lost = lost + 1
  j.cr = (j.cr or 0) + 1
  if j.st == 'cancelling' then
    end_attempt(j)
    return enter(j, 'cancelled')
  end
  local why = j.cr >= CRASH_LIMIT and 'the worker was lost ' .. j.cr .. ' times in this run' or 'the worker was lost'
  j.er = '{"type":"WorkerLost","message":"' .. why .. '","attempt":' .. j.at .. ',"retryable":'
    .. (j.cr < CRASH_LIMIT and 'true' or 'false') .. '}'
  end_attempt(j, j.er)
  if j.cr >= CRASH_LIMIT or j.at >= j.ma then
    j.fe = j.fe + 1
    enter(j, 'failed')
  else
    retry_at(j, NOW + 1000 * (2 ^ (j.cr - 1) - 1), j.at + 1)
  end
end

for _, entry in ipairs(redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', NOW, 'LIMIT', 0, A.limit)) do
  local tenant, id = string.match(entry, '^(%S+) (%S+)$')
  local j = load_job(tenant, id)
  if not j or TERMINAL[j.st] then
    redis.call('ZREM', P .. 'due', entry)
  elseif j.ea and j.ea <= NOW and allowed(j, 'expired') then
    expire(j)
  elseif HELD[j.st] then
    recover(j)
    save_job(j)
  elseif not TO_PUBLISH[j.st] then
    redis.call('ZREM', P .. 'due', entry)
  elseif A.publish then
    due_at(j, NOW + A.lease_ms)
    answer[#answer + 1] = message(j)
  else
    due_at(j, NOW + 1000)
  end
end

local first = redis.call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')
answer[1] = first[2] and math.max(0, math.ceil(tonumber(first[2]) - NOW)) or -1
answer[2] = lost
return answer
