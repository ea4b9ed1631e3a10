-- Run an ended job again: a new run, its log and its earlier attempts kept. A: tenant, id, lease_ms (until somebody
-- else may publish it), max_open, max_admitted (of the tenant). Answers false | {'open', status} | {'quota'} |
-- {'accepted', job, message} | {'parked', job}.
local j = load_job(A.tenant, A.id)
if not j then return false end
if not TERMINAL[j.st] then return {'open', j.st} end
if tonumber(redis.call('HGET', P .. 'open', j.tenant) or 0) >= A.max_open then return {'quota'} end
redis.call('ZREM', P .. 'ended', member(j))
count_open(j, 1)
redis.call('HDEL', job_key(j.tenant, j.id), 'r')
j.rn, j.at, j.cr, j.fe = j.rn + 1, 1, 0, j.fe + 1
j.er, j.rs, j.ru, j.pg, j.qa, j.sa, j.fa, j.ea = nil, nil, nil, nil, nil, nil, nil, nil
j.ve = j.ve + 1
enter(j, 'accepted')
due_at(j, NOW + A.lease_ms)
local admitted = admit(j, A.max_admitted or 0)
save_job(j)
if not admitted then return {'parked', job_json(j)} end
return {'accepted', job_json(j), message(j)}
