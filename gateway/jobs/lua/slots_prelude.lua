-- The slots of the caps, and who waits for one (docs/operating/flow-control.md).
--
-- A capped type has the set adm:t:<type> of the jobs it admitted ('<tenant> <id>'), a capped tenant adm:n:<tenant> (ids):
-- the sets are the count, so it cannot drift. A job that is not admitted waits in a lane:<tenant> <type> (its id, by
-- its turn). A lane that is not empty stands in one ring: of the type it waits for (its cap, its pause), ring:t <type>,
-- or of its tenant (its cap), ring:n <tenant>. What lets a ring go on puts its name into kick, and due.lua serves it.
-- waiting {type: count} is for people.
local KICKED = false   -- somebody who waited can go on
local function lane_key(tenant, type) return P .. 'lane:' .. tenant .. ' ' .. type end
local function ring_key(ring) return P .. 'ring:' .. ring end

local function kick(ring)
  if redis.call('EXISTS', ring_key(ring)) == 1 then
    redis.call('ZADD', P .. 'kick', 'NX', NOW, ring)
    KICKED = true
  end
end

-- Out of the lane; an empty lane stands in no ring.
local function leave_lane(tenant, type, id)
  if redis.call('ZREM', lane_key(tenant, type), id) == 0 then return end
  redis.call('HINCRBY', P .. 'waiting', type, -1)
  if redis.call('EXISTS', lane_key(tenant, type)) == 0 then
    redis.call('ZREM', ring_key('t ' .. type), tenant)
    redis.call('ZREM', ring_key('n ' .. tenant), type)
  end
end

-- Give back what the job holds, or its place in the lane.
local function leave(j)
  local held = j.ap
  j.ap = nil
  if held == 0 then return leave_lane(j.tenant, j.ty, j.id) end
  if held % 2 == 1 then
    redis.call('SREM', P .. 'adm:t:' .. j.ty, j.tenant .. ' ' .. j.id)
    kick('t ' .. j.ty)
  end
  if held >= 2 then
    redis.call('SREM', P .. 'adm:n:' .. j.tenant, j.id)
    kick('n ' .. j.tenant)
  end
end
