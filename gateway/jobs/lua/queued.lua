-- The broker has confirmed the message of this attempt. A: tenant, id, run, attempt. Answers the job, or false.
-- Nothing changes when a worker was faster, or the attempt is another by now, was put back, or waits (a worker met it
-- paused).
local j = load_job(A.tenant, A.id)
if not j then return false end
if j.rn == A.run and j.at == A.attempt and j.ap ~= 0 then
  if j.st == 'queued' then
    audit(j)   -- published once more
  elseif expected(j) then
    enter_queue(j)
    save_job(j)
  end
end
return job_json(j)
