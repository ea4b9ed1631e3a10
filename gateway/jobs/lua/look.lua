-- Read a job that may be damaged. A: tenant, id. Answers {version, job, attempts (one a line)}; the version is -1 when there
-- is none, -2 when it cannot be read.
local well, answer = pcall(function()
  local j = load_job(A.tenant, A.id)
  if not j then return {-1, '', ''} end
  return {j.ve, job_json(j), expand(redis.call('HGET', job_key(A.tenant, A.id), 'a') or '')}
end)
return well and answer or {-2, '', ''}
