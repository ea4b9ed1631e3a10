-- Read one job. A: tenant, id, full (with input and attempts).
-- Answers false or {version, status, job, owner or false, input, attempts (one a line)}.
local j = load_job(A.tenant, A.id)
if not j then return false end
local answer = {j.ve, j.st, job_json(j), j.ow or ''}
if A.full then
  local more = redis.call('HMGET', job_key(A.tenant, A.id), 'i', 'a')
  answer[5], answer[6] = more[1], expand(more[2] or '')
end
return answer
