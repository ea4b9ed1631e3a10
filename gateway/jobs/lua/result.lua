-- Read a job's result. A: tenant, id. Answers false or {status, owner, result or false}.
local j = load_job(A.tenant, A.id)
if not j then return false end
return {j.st, j.ow or '', j.rs or redis.call('HGET', job_key(A.tenant, A.id), 'r')}
