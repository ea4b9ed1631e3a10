-- What becomes of a job whose message is dead. A: tenant, id, run, attempt, delay_ms; error and death when a worker
-- refused it, else nobody began with it. Safe to repeat.
-- Answers 'missing' | 'withdrawn' | 'over' (it went on without this message) | 'due' | 'failed'.
local j = load_job(A.tenant, A.id)
if not j then
  return redis.call('EXISTS', P .. 'gone:' .. A.tenant .. ':' .. A.id) == 1 and 'withdrawn' or 'missing'
end
if j.rn ~= A.run or j.at ~= A.attempt or not expected(j) then return 'over' end
if not A.death then
  if j.st == 'queued' then unqueue(j, NOW + A.delay_ms) end
  return 'due'
end
if j.st ~= 'queued' then enter_queue(j) end
j.fe = j.fe + 1
end_attempt(j, A.error)
if turned(j) then
  give_up_undo(j, A.error)
  enter(j, 'failed', A.death)
else
  j.er = A.error
  finish(j, 'failed', A.death)
end
save_job(j)
return 'failed'
