-- What the worker that holds the fence has to say. A: tenant, id, fence, op (1, 2, 3 … under this fence), lease_ms, to:
-- 'progress' (progress), 'succeeded' (result, apart), 'failed' (error, death), 'retrying' (error, delay_ms), 'cancelled',
-- 'released' (the worker stops; the attempt is not burnt), 'snoozed' (error, delay_ms: the attempt comes again, but not
-- for ever), 'waiting' (children, gather, fail_fast, wait_ms). Of a job that is being undone: 'compensated', or 'failed',
-- 'retrying', 'released'. A job with steps to undo that is to fail or to be cancelled becomes 'compensating', with the
-- same worker. Answers {'ok', version, state} (and 1 when somebody who waited for a slot can go on) | {'stale'} |
-- {'refused', state}.

-- Free the worker until these children have ended. Waiting burns no attempt; the deadline is that of the first time.
local function wait_for_children(j)
  local key, of, left, failed = saga_key(j.tenant, j.id), {}, 0, false
  for _, number in ipairs(A.children) do
    local kept = redis.call('HGET', key, 'c' .. number)
    if string.sub(kept, 1, 4) == 'job_' then
      of[number], left = true, left + 1
    elseif cmsgpack.unpack(kept)[2] ~= 'succeeded' then
      failed = true
    end
  end
  if A.fail_fast and failed then left = 0 end
  redis.call('HSETNX', key, 'w' .. A.gather, NOW + A.wait_ms)
  j.cw = {left = left, of = of, ff = A.fail_fast, till = tonumber(redis.call('HGET', key, 'w' .. A.gather))}
  j.fe, j.ck, j.pb = j.fe + 1, nil, true
  set_progress(j)
  enter(j, 'waiting')
  due_at(j, left == 0 and NOW or j.cw.till)
end

local j = load_job(A.tenant, A.id)
if not j or j.fe ~= A.fence then
  -- A retry raises the fence: recognise the repetition of the operation that did it.
  if j and j.fe == A.fence + 1 and j.on == A.op and j.lf == A.fence then return {'ok', j.ve, j.st} end
  return {'stale'}
end
if (j.on or 0) >= A.op then return {'ok', j.ve, j.st} end
if not HELD[j.st] then return {'stale'} end
local undoing = j.st == 'compensating'
local unburnt = A.to == 'released' or (A.to == 'snoozed' and (j.ax or 0) < MAX_SNOOZES)
local to = (unburnt or A.to == 'snoozed') and 'retrying' or A.to
if A.to == 'snoozed' and not unburnt and j.at >= j.ma then to = 'failed' end
if to == 'compensated' and undoing and not left_to_undo(j) then to = j.sg.to end
-- A job being cancelled that fails, or would be tried again, is simply cancelled.
if j.st == 'cancelling' and (to == 'failed' or to == 'retrying' or to == 'waiting') then to = 'cancelled' end
local to_turn = not undoing and (to == 'failed' or to == 'cancelled') and left_to_undo(j)
if to ~= 'progress' and (not allowed(j, to) or to == 'compensating') then return {'refused', j.st} end

j.on, j.lf = A.op, A.fence
-- A job that is being undone dies of what began it, unless that is what fails.
if A.death and (j.st ~= 'compensating' or to == 'failed') then j.dr = A.death end
if A.progress then j.pg = A.progress end   -- with the end comes what was last reported
if to == 'progress' then
  due_at(j, NOW + A.lease_ms)
  emit(j, 'job.progress')
  if j.pa then share(j) end
elseif to == 'retrying' then
  if A.to == 'snoozed' then j.ax, j.er = (j.ax or 0) + 1, A.error end
  if unburnt then
    retry_at(j, NOW + (A.delay_ms or 0), j.at)
  else
    if not undoing then j.er = A.error end   -- the original one is kept
    end_attempt(j, A.error)
    retry_at(j, NOW + A.delay_ms, j.at + 1)
  end
elseif to == 'waiting' then
  wait_for_children(j)
elseif to_turn then
  j.er = A.error
  end_attempt(j, A.error)
  turn(j, to)
  due_at(j, NOW + A.lease_ms)
else
  if not undoing then j.er = A.error elseif to == 'failed' and A.to == to then give_up_undo(j, A.error) end
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
return {'ok', j.ve, j.st, KICKED}
