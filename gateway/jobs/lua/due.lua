-- Act on what is due. A: limit, lease_ms (for whoever publishes), publish (false while the broker is away), blocked
-- (set of '<pool>.<priority>' whose queue is full), put_off_ms (for what cannot be published now), max_admitted (jobs of
-- a tenant, 0: no cap), grace_ms (a lease).
-- Answers {ms until there is more to do, or -1; number of lost leases; entries that failed, one a line; messages …}.
--
-- When more is due than one call hands out, the oldest go from due to crowd:<tenant>, and the tenants of crowds take
-- turns: one with 100,000 due jobs holds up another's one for moments only. `crowded` is how many are in crowds.
generation()   -- a new master learns within a moment that it is one, also when nobody publishes
local answer, lost, failed, size = {0, 0, ''}, 0, '', 0
local MOST = 4 * 1024 * 1024   -- bytes of messages in one answer
local CHILDREN_AT_ONCE = 50
local SPREAD = 2000            -- entries that go to the crowds in one call
local RINGS = 16               -- rings served in one call
local cap = A.max_admitted or 0

-- While nobody could ask, nobody could beat: a server that was away says nothing about the workers. After a silence of
-- all reapers whoever holds a job gets a lease more to be heard, at most half of the time.
local function grace_until()
  local gen = P .. 'gen'
  local known = redis.call('HMGET', gen, 'asked', 'grace')
  local silence, grace = NOW - tonumber(known[1] or NOW), tonumber(known[2] or 0)
  if silence > A.grace_ms / 3 and NOW > grace + A.grace_ms then
    grace = NOW + A.grace_ms
    redis.call('HSET', gen, 'grace', grace)
  end
  if not known[1] or silence > A.grace_ms / 10 then redis.call('HSET', gen, 'asked', NOW) end
  return grace
end
local grace = grace_until()

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

local function held_up(j) return not A.publish or A.blocked[j.po .. '.' .. j.pr] end

local function hand_out(j)
  due_at(j, NOW + A.lease_ms)
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

local function publish(j)
  if held_up(j) then return due_at(j, NOW + A.put_off_ms) end
  if j.ap == 0 then   -- its turn should have come
    kick('t ' .. j.ty)
    kick('n ' .. j.tenant)
    return due_at(j, NOW + AUDIT)
  end
  local before = j.ap
  local admitted = j.st == 'queued' or admit(j, cap)
  if j.ap ~= before then save_job(j) end
  if admitted then hand_out(j) end
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
  elseif HELD[j.st] and NOW < grace then
    due_at(j, grace)
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
  if not j or not j.cn or upto >= j.cn[1] then redis.call('SREM', P .. 'abandoned', entry) end
  if j then redis.call('HSET', key, 'swept', upto) end   -- of one that is forgotten by now nothing comes back
end

local abandoned = redis.call('SRANDMEMBER', P .. 'abandoned')
if abandoned then
  local well, fault = pcall(disown, abandoned)
  if not well then
    redis.call('SREM', P .. 'abandoned', abandoned)
    failed = abandoned .. ' its children: ' .. string.gsub(tostring(fault), '\n', ' ') .. '\n'
  end
end

-- One job we cannot deal with must not hold up the shard.
local function attempt(work, entry)
  local well, fault = pcall(work, entry)
  if well then return end
  redis.call('ZADD', P .. 'due', NOW + 60000, entry)
  failed = failed .. entry .. ' ' .. string.gsub(tostring(fault), '\n', ' ') .. '\n'
end

local function spread()
  local found = redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', NOW, 'WITHSCORES', 'LIMIT', 0, SPREAD)
  local of = {}
  for i = 1, #found, 2 do
    local tenant, id = string.match(found[i], '^(%S+) (%S+)$')
    local crowd = of[tenant] or {}
    of[tenant] = crowd
    crowd[#crowd + 1], crowd[#crowd + 2] = found[i + 1], id
  end
  for tenant, crowd in pairs(of) do
    redis.call('INCRBY', P .. 'crowded', redis.call('ZADD', P .. 'crowd:' .. tenant, unpack(crowd)))
    redis.call('ZADD', P .. 'crowds', 'NX', NOW, tenant)
  end
  redis.call('ZREMRANGEBYRANK', P .. 'due', 0, #found / 2 - 1)
end

-- The tenants of crowds in turn. What has a due time again has been looked at since.
local function serve_crowds(budget)
  if budget < 1 then return end
  local tenants = redis.call('ZRANGE', P .. 'crowds', 0, budget - 1)
  for _, tenant in ipairs(tenants) do
    local key, share = P .. 'crowd:' .. tenant, math.max(1, math.floor(budget / #tenants))
    while share > 0 and size <= MOST do
      local id = redis.call('ZPOPMIN', key)[1]
      if not id then break end
      redis.call('DECR', P .. 'crowded')
      local entry = tenant .. ' ' .. id
      if not redis.call('ZSCORE', P .. 'due', entry) then attempt(act, entry) end
      share = share - 1
    end
    if redis.call('EXISTS', key) == 1 then
      redis.call('ZADD', P .. 'crowds', NOW, tenant)
    else
      redis.call('ZREM', P .. 'crowds', tenant)
    end
  end
  if redis.call('EXISTS', P .. 'crowds') == 0 then redis.call('DEL', P .. 'crowded') end
end

-- The first job of a lane gets its slots, which are free.
local function admit_waiting(entry)
  local j = load_job(string.match(entry, '^(%S+) (%S+)$'))
  leave(j)
  if j.ea and j.ea <= NOW and allowed(j, 'expired') then return expire(j) end
  hold(j, type_of(j.ty), cap)
  save_job(j)
  if held_up(j) then due_at(j, NOW + A.put_off_ms) else hand_out(j) end
end

-- Let the lanes of a ring take turns while there are slots; a lane that could go on but for another reason goes to that
-- one's ring. Answers whether the ring has had all it can have.
local function serve(ring, budget)
  local kind, name = string.match(ring, '^(%a) (%S+)$')
  for turn = 1, budget do
    local other = redis.call('ZRANGE', ring_key(ring), 0, 0)[1]
    if not other then return true end
    local tenant, type = other, name
    if kind == 'n' then tenant, type = name, other end
    local waits_for = blocked(tenant, type, type_of(type), cap)
    if waits_for == ring then return true end
    local id = redis.call('ZRANGE', lane_key(tenant, type), 0, 0)[1]
    if waits_for or not id then
      redis.call('ZREM', ring_key(ring), other)
      if id then redis.call('ZADD', ring_key(waits_for), 'NX', NOW, kind == 't' and type or tenant) end
    else
      attempt(admit_waiting, tenant .. ' ' .. id)
      leave_lane(tenant, type, id)   -- also when it could not be read
      redis.call('ZADD', ring_key(ring), 'XX', NOW + turn / 1024, other)
    end
    if size > MOST then return false end
  end
  return false
end

local entries = redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', NOW, 'LIMIT', 0, A.limit + 1)
if A.publish and #entries > A.limit then
  spread()
  entries = {}
end
for i = 1, math.min(#entries, A.limit) do
  attempt(act, entries[i])
  if size > MOST then break end
end
if A.publish then
  serve_crowds(A.limit - #entries)
  local kicked = redis.call('ZRANGE', P .. 'kick', 0, RINGS - 1)
  for _, ring in ipairs(kicked) do
    if serve(ring, math.max(1, math.floor(A.limit / #kicked))) then
      redis.call('ZREM', P .. 'kick', ring)
    else
      redis.call('ZADD', P .. 'kick', NOW, ring)
    end
  end
end

local first = redis.call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')
answer[1] = abandoned and 0 or first[2] and math.max(0, math.ceil(tonumber(first[2]) - NOW)) or -1
if A.publish and (redis.call('EXISTS', P .. 'crowds') == 1 or redis.call('EXISTS', P .. 'kick') == 1) then answer[1] = 0 end
answer[2], answer[3] = lost, failed
return answer
