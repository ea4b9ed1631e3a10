-- Read one channel. A: tenant, channel, epoch ('' matches any), offset (nil: no position asked), limit, reverse.
-- Answers {epoch, head offset, complete (1|0), {id, entry, id, entry, …}}.
local meta = meta_key(A.tenant, A.channel)
local log = stream_key(A.tenant, A.channel)
local known = redis.call('HMGET', meta, 'born', 'offset', 'word')
local born, head = known[1], tonumber(known[2] or 0)
if not born then
  -- A channel nobody published to yet needs an epoch its first publication will keep.
  born = base36(sequence_of(A.tenant))
  redis.call('HSET', meta, 'born', born)
end
if head == 0 then redis.call('PEXPIRE', meta, EMPTY_TTL) end
local epoch = epoch_of(born)

local complete = 1
if A.offset then
  local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  local oldest = first and entry_id(first[1]) or head + 1
  if (A.epoch ~= '' and A.epoch ~= epoch) or A.offset > head or oldest > A.offset + 1
    or (A.offset < head and not reaches(log, head)) then
    complete = 0
  end
end

local flat = {}
if A.limit > 0 and complete == 1 then
  local entries
  if A.reverse then
    local from = A.offset and A.offset > 0 and ('(' .. A.offset .. '-0') or '+'
    entries = redis.call('XREVRANGE', log, from, '-', 'COUNT', A.limit)
  else
    entries = redis.call('XRANGE', log, ((A.offset or 0) + 1) .. '-0', '+', 'COUNT', A.limit)
  end
  flat = entries_of(A.channel, known[3], entries)
end
return {epoch, head, complete, flat}
