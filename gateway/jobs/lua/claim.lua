-- Take a job for this worker. A: tenant, id, run, attempt, token (of this delivery), lease_ms, worker (JSON).
-- Answers {'claimed', fence, max attempts, timeout ms, traceparent, snoozes of the attempt, 1 if it only has to be
-- undone} | {'drop', why} | {'missing'}. Repeating a claim whose answer was lost returns the same claim.
local j = load_job(A.tenant, A.id)
if not j then
  if redis.call('EXISTS', P .. 'gone:' .. A.tenant .. ':' .. A.id) == 1 then return {'drop', 'withdrawn'} end
  return {'missing'}
end
local function claimed() return {'claimed', j.fe, j.ma, j.tm, j.tp, j.ax or 0, turned(j) and 1 or 0} end
if HELD[j.st] and j.ck == A.token then return claimed() end
if TERMINAL[j.st] then return {'drop', j.st} end
if j.rn ~= A.run or j.at ~= A.attempt then return {'drop', 'another attempt'} end
if j.ap == 0 then return {'drop', 'waiting'} end
if not expected(j) then return {'drop', j.st == 'waiting' and 'waiting' or 'leased'} end
if j.ea and j.ea <= NOW then
  expire(j)
  return {'drop', 'expired'}
end
local task = type_of(j.ty)
if task and task.pa then
  -- Without burning the attempt. It stays as it is for everyone else; its message is what goes.
  if j.ap then leave(j) end
  wait(j, 't ' .. j.ty)
  save_job(j)
  return {'drop', 'paused'}
end
-- Admitted before the type had a cap, it counts from now on.
if task and task.mr and (j.ap or 0) % 2 == 0 then hold_of_type(j) end
-- The message can be faster than its own confirmation.
if j.st ~= 'queued' then enter_queue(j) end
j.ea = nil   -- it has started: what was to happen otherwise no longer does
j.fe, j.on, j.ck, j.sa, j.wk, j.cw = j.fe + 1, 0, A.token, NOW, A.worker, nil
if not j.cn then j.pg = nil end   -- a parent goes on where its children brought it
enter(j, turned(j) and 'compensating' or 'running')
due_at(j, NOW + A.lease_ms)
save_job(j)
return claimed()
