-- Whether a job may go to the broker. `cap` is the tenant's (0: none); a type's record in `types` is MessagePack: po pool,
-- ma max attempts, tm timeout ms, mr most of its jobs admitted at a time (nil: no cap), pa paused.
local HEAD_START = {critical = -60000, default = 0, bulk = 60000}   -- ms; within a lane, so that no class starves
local TYPES = {}

local function type_of(name)
  if TYPES[name] == nil then
    local packed = redis.call('HGET', P .. 'types', name)
    TYPES[name] = packed and cmsgpack.unpack(packed) or false
  end
  return TYPES[name]
end

-- The ring in which a lane would have to wait now, or nil.
local function blocked(tenant, type, task, cap)
  if task and (task.pa or task.mr and redis.call('SCARD', P .. 'adm:t:' .. type) >= task.mr) then return 't ' .. type end
  if cap > 0 and redis.call('SCARD', P .. 'adm:n:' .. tenant) >= cap then return 'n ' .. tenant end
end

local function hold_of_type(j)
  redis.call('SADD', P .. 'adm:t:' .. j.ty, j.tenant .. ' ' .. j.id)
  j.ap = (j.ap or 0) + 1
end

local function hold(j, task, cap)
  if task and task.mr then hold_of_type(j) end
  if cap > 0 then
    redis.call('SADD', P .. 'adm:n:' .. j.tenant, j.id)
    j.ap = (j.ap or 0) + 2
  end
end

-- It waits, behind those of its lane. The due set still has it, to expire it, and in case its turn was missed.
local function wait(j, ring)
  local lane = lane_key(j.tenant, j.ty)
  if redis.call('EXISTS', lane) == 0 then
    redis.call('ZADD', ring_key(ring), NOW, string.sub(ring, 1, 1) == 't' and j.tenant or j.ty)
  end
  redis.call('ZADD', lane, NOW + HEAD_START[j.pr], j.id)
  redis.call('HINCRBY', P .. 'waiting', j.ty, 1)
  j.ap = 0
  due_at(j, NOW + AUDIT)
end

-- Take the slots the job needs, or let it wait; the caller saves it. Nobody overtakes those who wait for the same slots.
local function admit(j, cap)
  if j.ap and j.ap > 0 then return true end
  local task = type_of(j.ty)
  if cap == 0 and not (task and (task.mr or task.pa)) then return true end
  local ring = blocked(j.tenant, j.ty, task, cap)
  if not ring then
    if task and task.mr and redis.call('EXISTS', ring_key('t ' .. j.ty)) == 1 then
      ring = 't ' .. j.ty
    elseif cap > 0 and redis.call('EXISTS', ring_key('n ' .. j.tenant)) == 1 then
      ring = 'n ' .. j.tenant
    end
    if ring then kick(ring) end
  end
  if not ring then
    hold(j, task, cap)
    return true
  end
  wait(j, ring)
  return false
end
