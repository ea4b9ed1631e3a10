-- Accept a job. A: tenant, id, type, owner, priority, static (JSON up to and without pool and max_attempts), input,
-- max_attempts, timeout_ms, delay_ms, ttl_ms, traceparent, targets, max_open, max_due (open jobs of the shard, 0: no
-- bound), max_admitted (of the tenant, 0: no cap), lease_ms (until somebody else may publish it), key and fingerprint (of
-- the Idempotency-Key), unique, parent (of a child: {id, fence, name}). A job this server lost is written anew with
-- rebuilt = {pool, run, attempt, created_at}: what it promised then is not asked again, not even that it is unique.
-- Answers {'accepted', job, message} | {'parked', job} (accepted; it waits to be admitted) | {'existing', job} |
-- {'held', job that has the unique key} | {'unknown-type'} | {'quota'} | {'overloaded'} | {'mismatch'} | {'in-flight'} |
-- {'replay', stored answer or '', job or ''}; for a child as spawn_prelude.lua says.
local idem = A.key and P .. 'idem:' .. A.tenant .. ':' .. A.key
if idem then
  local known = redis.call('HMGET', idem, 'fingerprint', 'id', 'answer', 'until')
  if known[1] and known[2] ~= A.id then
    if known[1] ~= A.fingerprint then return {'mismatch'} end
    if not known[3] and tonumber(known[4]) > NOW then return {'in-flight'} end
    local first = load_job(A.tenant, known[2])
    return {'replay', known[3] or '', first and job_json(first) or ''}
  end
end

local parent
if A.parent then
  local answer
  parent, answer = adopting()
  if answer then return answer end
end

local existing = load_job(A.tenant, A.id)
if existing then return {'existing', job_json(existing)} end

local function remember(id)
  redis.call('HSET', idem, 'fingerprint', A.fingerprint, 'id', id, 'until', NOW + A.lease_ms)
  redis.call('PEXPIRE', idem, 86400000)
end

local other = A.unique and holder(A.tenant, A.type, A.unique)
local pool, max_attempts, timeout
if A.rebuilt then
  pool = A.rebuilt.pool
else
  local task = type_of(A.type)
  if not task then return {'unknown-type'} end
  if other then
    if idem then remember(other.id) end
    return {'held', job_json(other)}
  end
  if tonumber(redis.call('HGET', P .. 'open', A.tenant) or 0) >= A.max_open then return {'quota'} end
  if (A.max_due or 0) > 0 and count_due() >= A.max_due then return {'overloaded'} end
  pool, max_attempts, timeout = task.po, task.ma, task.tm
end

local delayed = A.delay_ms and A.delay_ms > 0
local j = {
  tenant = A.tenant, id = A.id, st = delayed and 'scheduled' or 'accepted', ve = 1, ty = A.type, ow = A.owner,
  po = pool, pr = A.priority, rn = 1, at = 1, ma = A.max_attempts or max_attempts,
  tm = A.timeout_ms or timeout, ca = NOW, ra = delayed and NOW + A.delay_ms or nil,
  ea = A.ttl_ms and NOW + A.ttl_ms or nil, tp = A.traceparent, tg = A.targets, fe = 0,
  pa = parent and descent(parent) or nil,
  uk = not other and A.unique or nil,
}
if A.rebuilt then
  j.rn, j.at, j.ca = A.rebuilt.run, A.rebuilt.attempt, A.rebuilt.created_at
  -- Above every version told before the loss: no job gets a hundred a second for its whole life.
  j.ve = math.max(1, math.floor((NOW - j.ca) / 10))
end
write_new(j, A.static, A.input)
due_at(j, j.ra or NOW + A.lease_ms)
local admitted = delayed or A.rebuilt or admit(j, A.max_admitted or 0)
if j.uk then take_unique(j) end
if idem then remember(j.id) end
if delayed then
  j.ve = 0
  emit(j, 'job.scheduled')
end
save_job(j)
if parent then return adopt(parent, j) end
if not admitted then return {'parked', job_json(j)} end
return {'accepted', job_json(j), message(j)}
