-- Cancel a job: at once if no worker holds it, else the worker is told by its next heartbeat or progress. One that has
-- steps to undo ends by way of a worker that undoes them; one that is being undone goes on. A: tenant, id. Answers
-- false | {'ended', status} | {status, job}.
local j = load_job(A.tenant, A.id)
if not j then return false end
if TERMINAL[j.st] then return {'ended', j.st} end
if j.fo and j.st ~= 'cancelling' then   -- whoever runs it is told
  redis.call('SADD', P .. 'revoke:' .. j.fo, member(j) .. ' ' .. j.fu)
end
cancel_job(j)
return {j.st, job_json(j)}
