-- Act on what is due. A: limit, lease_ms (for whoever publishes), publish (false while the broker is away), blocked
-- (set of '<pool>.<priority>' whose queue is full), put_off_ms (for what cannot be published now).
-- Answers {ms until the next entry, or -1; number of lost leases; entries that failed, one a line; messages …}.
generation()   -- a new master learns within a moment that it is one, also when nobody publishes
local answer, lost, failed, size = {0, 0, ''}, 0, '', 0
local MOST = 4 * 1024 * 1024   -- bytes of messages in one answer
local CHILDREN_AT_ONCE = 50

local function recover(j)
  lost = lost + 1
  j.cr = (j.cr or 0) + 1
  if j.st == 'compensating' then return undo_lost(j) end
  if j.st == 'cancelling' then
    end_attempt(j)
    return finish(j, 'cancelled')
  end
  local why = j.cr >= CRASH_LIMIT and 'the worker was lost ' .. j.cr .. ' times in this run' or 'the worker was lost'
  j.er = '{"type":"WorkerLost","message":"' .. why .. '","attempt":' .. j.at .. ',"retryable":'
    .. (j.cr < CRASH_LIMIT and 'true' or 'false') .. '}'
  end_attempt(j, j.er)
  if j.cr >= CRASH_LIMIT or j.at >= j.ma then
    j.fe = j.fe + 1
    finish(j, 'failed', known_death(j.cr >= CRASH_LIMIT and 'crashed' or 'lost'))
  else
    retry_at(j, NOW + 1000 * (2 ^ (j.cr - 1) - 1), j.at + 1)
  end
end

local function publish(j)
  if not A.publish or A.blocked[j.po .. '.' .. j.pr] then
    return due_at(j, NOW + A.put_off_ms)
  end
  if j.st == 'queued' then audit(j) else due_at(j, NOW + A.lease_ms) end
  answer[#answer + 1] = message(j)
  size = size + #answer[#answer]
end

-- Another system runs it, and has not said a word for longer than it may.
local function unheard(j)
  j.er = '{"type":"Unheard","message":"nothing was heard of it any more","attempt":' .. j.at .. ',"retryable":false}'
  if HELD[j.st] then end_attempt(j, j.er) end
  enter(j, 'failed')
  save_job(j)
end

local function act(entry)
  local tenant, id = string.match(entry, '^(%S+) (%S+)$')
  local j = load_job(tenant, id)
  if not j or TERMINAL[j.st] then
    redis.call('ZREM', P .. 'due', entry)
  elseif j.ea and j.ea <= NOW and allowed(j, 'expired') then
    expire(j)
  elseif j.fo then
    unheard(j)
  elseif HELD[j.st] then
    recover(j)
    save_job(j)
  elseif j.st == 'waiting' and not ready(j) then
    still_waiting(j)
  elseif TO_PUBLISH[j.st] or j.st == 'queued' then
    publish(j)
  else
    redis.call('ZREM', P .. 'due', entry)
  end
end

-- Cancel some of the open children of a job that has given up.
local function disown(entry)
  local tenant, id = string.match(entry, '^(%S+) (%S+)$')
  local j, key = load_job(tenant, id), saga_key(tenant, id)
  local from = tonumber(redis.call('HGET', key, 'swept') or 0)
  local upto = math.min(from + CHILDREN_AT_ONCE, j and j.cn and j.cn[1] or 0)
  for number = from + 1, upto do
    local child = load_job(tenant, redis.call('HGET', key, 'c' .. number) or '')
    if child then cancel_job(child) end   -- an outcome is nobody's id
  end
  redis.call('HSET', key, 'swept', upto)
  if not j or not j.cn or upto >= j.cn[1] then redis.call('SREM', P .. 'abandoned', entry) end
end

local abandoned = redis.call('SRANDMEMBER', P .. 'abandoned')
if abandoned then
  local well, fault = pcall(disown, abandoned)
  if not well then
    redis.call('SREM', P .. 'abandoned', abandoned)
    failed = abandoned .. ' its children: ' .. string.gsub(tostring(fault), '\n', ' ') .. '\n'
  end
end

for _, entry in ipairs(redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', NOW, 'LIMIT', 0, A.limit)) do
  -- One job we cannot deal with must not hold up the shard.
  local well, fault = pcall(act, entry)
  if not well then
    redis.call('ZADD', P .. 'due', NOW + 60000, entry)
    failed = failed .. entry .. ' ' .. string.gsub(tostring(fault), '\n', ' ') .. '\n'
  end
  if size > MOST then break end
end

local first = redis.call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')
answer[1] = abandoned and 0 or first[2] and math.max(0, math.ceil(tonumber(first[2]) - NOW)) or -1
answer[2], answer[3] = lost, failed
return answer
