-- The broker has confirmed the message of this attempt. A: tenant, id, run, attempt. Answers the job, or false.
-- Nothing changes when a worker was faster, or the attempt is another by now.
local j = load_job(A.tenant, A.id)
if not j then return false end
if ready(j) and j.rn == A.run and j.at == A.attempt then
  enter_queue(j)
  save_job(j)
end
return job_json(j)
