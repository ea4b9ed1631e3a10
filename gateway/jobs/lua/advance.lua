-- What the worker that holds the fence has to say. A: tenant, id, fence, op (1, 2, 3 … under this fence), lease_ms, to:
-- 'progress' (progress), 'succeeded' (result, apart), 'failed' (error, death), 'retrying' (error, delay_ms), 'cancelled',
-- 'released' (the worker stops; the attempt is not burnt). Answers {'ok', version, state} | {'stale'} | {'refused', state}.
local j = load_job(A.tenant, A.id)
if not j or j.fe ~= A.fence then
  -- A retry raises the fence: recognise the repetition of the operation that did it.
  if j and j.fe == A.fence + 1 and j.on == A.op and j.lf == A.fence then return {'ok', j.ve, j.st} end
  return {'stale'}
end
if (j.on or 0) >= A.op then return {'ok', j.ve, j.st} end
if not HELD[j.st] then return {'stale'} end
local to = A.to == 'released' and 'retrying' or A.to
-- A job being cancelled that fails, or would be tried again, is simply cancelled.
if j.st == 'cancelling' and (to == 'failed' or to == 'retrying') then to = 'cancelled' end
if to ~= 'progress' and not allowed(j, to) then return {'refused', j.st} end

j.on, j.lf = A.op, A.fence
-- A job that is being undone dies of what began it, unless that is what fails.
if A.death and (j.st ~= 'compensating' or to == 'failed') then j.dr = A.death end
if A.progress then j.pg = A.progress end   -- with the end comes what was last reported
if to == 'progress' then
  due_at(j, NOW + A.lease_ms)
  emit(j, 'job.progress')
elseif to == 'retrying' then
  if A.to == 'released' then
    retry_at(j, NOW, j.at)
  else
    j.er = A.error
    end_attempt(j, A.error)
    retry_at(j, NOW + A.delay_ms, j.at + 1)
  end
else
  j.er = A.error
  if A.result then
    if A.apart then
      j.ru = true
      redis.call('HSET', job_key(j.tenant, j.id), 'r', A.result)
    else
      j.rs = A.result
    end
  end
  end_attempt(j, A.error)
  enter(j, to)
end
save_job(j)
return {'ok', j.ve, j.st}
