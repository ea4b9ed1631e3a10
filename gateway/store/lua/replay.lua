-- Read what several channels got after a sequence of the tenant, at one moment.
-- A: tenant, channels, generation, sequence, limit (per channel).
-- Answers {generation, head sequence, complete (1|0), {epoch, {id, entry, …}} per channel}.
local head = sequence_of(A.tenant)
local answer = {generation(), head, 1}
if A.generation ~= generation() or A.sequence > head then
  answer[3] = 0
  return answer
end

-- The first entry with a larger sequence: offsets and sequences rise together, so halve the offsets.
local function first_after(log, low, high)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local entry = redis.call('XRANGE', log, middle .. '-0', '+', 'COUNT', 1)[1]
    local offset, sequence = entry_id(entry[1])
    if sequence > A.sequence then high = middle else low = offset + 1 end
  end
  return low
end

for i, channel in ipairs(A.channels) do
  local known = redis.call('HMGET', meta_key(A.tenant, channel), 'born', 'offset', 'seq', 'word')
  local flat = {}
  if tonumber(known[3] or 0) > A.sequence then
    local log = stream_key(A.tenant, channel)
    local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    local previous = first and tonumber(string.match(first[2][2], '^(%d+) '))
    if not first or previous > A.sequence or not reaches(log, tonumber(known[2])) then
      answer[3] = 0
    else
      local start = first_after(log, (entry_id(first[1])), tonumber(known[2]))
      flat = entries_of(channel, known[4], redis.call('XRANGE', log, start .. '-0', '+', 'COUNT', A.limit))
    end
  end
  answer[3 + i] = {known[1] and epoch_of(known[1]) or '', flat}
end
return answer
