-- Record events from producers. A.events: list of {type, head, tail, key?, info?, id? (dedupe), channels}.
-- A repeated id returns, per channel, the position it already has. Answers a flat list epoch, offset, …
local answer = {}
for _, event in ipairs(A.events) do
  local fresh, where = {}, {}
  for i, channel in ipairs(event.channels) do
    local seen = event.id and redis.call('GET', P .. 'dup:' .. A.tenant .. ':' .. channel[1] .. ':' .. event.id)
    where[i] = seen or false
    if not seen then fresh[#fresh + 1] = channel end
  end
  local positions = #fresh > 0 and record(A.tenant, event, fresh) or {}
  local next_fresh = 0
  for i, channel in ipairs(event.channels) do
    local epoch, offset
    if where[i] then
      epoch, offset = string.match(where[i], '^(%S+) (%d+)$')
    else
      epoch, offset = positions[next_fresh + 1], positions[next_fresh + 2]
      next_fresh = next_fresh + 2
      if event.id then
        redis.call('SET', P .. 'dup:' .. A.tenant .. ':' .. channel[1] .. ':' .. event.id,
          epoch .. ' ' .. offset, 'PX', DEDUPE_TTL)
      end
    end
    answer[#answer + 1] = epoch
    answer[#answer + 1] = tonumber(offset)
  end
end
return answer
