-- Run an ended job again: a new run, its log and its earlier attempts kept. A: tenant, id, lease_ms (until somebody
-- else may publish it), max_open, dead (only if it is among the dead letters).
-- Answers false | {'open', status} | {'quota'} | {'accepted', job, message}.
local j = load_job(A.tenant, A.id)
if not j or (A.dead and TERMINAL[j.st] and not j.dg) then return false end
if not TERMINAL[j.st] then return {'open', j.st} end
if tonumber(redis.call('HGET', P .. 'open', j.tenant) or 0) >= A.max_open then return {'quota'} end
redis.call('ZREM', P .. 'ended', member(j))
redis.call('HINCRBY', P .. 'open', j.tenant, 1)
redis.call('HDEL', job_key(j.tenant, j.id), 'r')
j.rn, j.at, j.cr, j.fe = j.rn + 1, 1, 0, j.fe + 1
j.er, j.rs, j.ru, j.pg, j.qa, j.sa, j.fa, j.ea = nil, nil, nil, nil, nil, nil, nil, nil
j.ve = j.ve + 1
enter(j, 'accepted')
due_at(j, NOW + A.lease_ms)
save_job(j)
return {'accepted', job_json(j), message(j)}
