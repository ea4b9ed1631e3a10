-- Run an ended job again: a new run, its log and its earlier attempts kept. One that is dead because an undo failed is
-- undone further instead. A child's new run is nobody's child: its parent has heard of its end. A: tenant, id, lease_ms
-- (until somebody else may publish it), max_open, max_admitted (of the tenant), dead (only if it is among the dead
-- letters; then the due set publishes it).
-- Answers false | {'open', status} | {'foreign', source} | {'quota'} | {'held', id of the open job that has its unique
-- key} | {'accepted', job, message} | {'parked', job}.
local j = load_job(A.tenant, A.id)
if not j or (A.dead and TERMINAL[j.st] and not j.dg) then return false end
if not TERMINAL[j.st] then return {'open', j.st} end
if j.fo then return {'foreign', j.fo} end
if redis.call('SISMEMBER', P .. 'abandoned', member(j)) == 1 then return {'open', 'ending its children'} end
if tonumber(redis.call('HGET', P .. 'open', j.tenant) or 0) >= A.max_open then return {'quota'} end
local other = j.uk and holder(j.tenant, j.ty, j.uk)
if other then return {'held', other.id} end
if j.uk then take_unique(j) end
redis.call('ZREM', P .. 'ended', member(j))
count_open(j, 1)
redis.call('HDEL', job_key(j.tenant, j.id), 'r', 'e')
j.rn, j.at, j.cr, j.fe = j.rn + 1, 1, 0, j.fe + 1
j.er, j.rs, j.ru, j.pg, j.qa, j.sa, j.fa, j.ea, j.ax = nil, nil, nil, nil, nil, nil, nil, nil, nil
j.pa, j.cn, j.cp = nil, nil, nil
if j.sg and j.sg.er then
  j.er, j.dr, j.sg.er, j.sg.n, j.sg.f = j.sg.er, j.sg.dr, nil, 0, nil
else
  j.sg = nil
  redis.call('DEL', saga_key(j.tenant, j.id))
end
j.ve = j.ve + 1
enter(j, 'accepted')
due_at(j, NOW + A.lease_ms)
local admitted = A.dead or admit(j, A.max_admitted or 0)
save_job(j)
if not admitted then return {'parked', job_json(j)} end
return {'accepted', job_json(j), message(j)}
