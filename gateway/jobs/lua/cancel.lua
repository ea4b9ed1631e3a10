-- Cancel a job: at once if no worker holds it, else the worker is told by its next heartbeat or progress.
-- A: tenant, id. Answers false | {'ended', status} | {'cancelled' | 'cancelling', job}.
local j = load_job(A.tenant, A.id)
if not j then return false end
if TERMINAL[j.st] then return {'ended', j.st} end
if j.st == 'cancelling' or j.st == 'compensating' then return {'cancelling', job_json(j)} end
if j.fo then redis.call('SADD', P .. 'revoke:' .. j.fo, member(j) .. ' ' .. j.fu) end   -- whoever runs it is told
if HELD[j.st] then
  enter(j, 'cancelling')
else
  enter(j, 'cancelled')
end
save_job(j)
return {j.st, job_json(j)}
