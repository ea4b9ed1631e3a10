-- A step of a saga goes on. A: tenant, id, fence, name, to: 'started' (undo, given: input of the undo; each may be
-- nil), 'done' (result), 'failed', 'undoing', 'undone'. Answers {'ok', status, result or false, given or false, tries}
-- | {'stale'} | {'cancelling'} | {'refused', why}. A step that is done already is not started again. Safe to repeat; a
-- lost answer to 'undoing' under the same fence is one try.
local j = held_job(A.tenant, A.id, A.fence)
if not j then return {'stale'} end
local saga = j.sg or {s = {}, rn = j.rn}
local number
for i, known in ipairs(saga.s) do
  if known[1] == A.name then number = i end
end
local step = number and saga.s[number]
local key = saga_key(A.tenant, A.id)

local function ok()
  local kept = redis.call('HMGET', key, 'p' .. number, 'g' .. number)
  return {'ok', step[2], kept[1], kept[2], saga.n or 0}
end

if A.to == 'started' then
  if j.st == 'compensating' then return {'refused', 'the job is being undone'} end
  if j.st ~= 'running' then return {'cancelling'} end
  if step and step[2] == 'done' then return ok() end
  if not step then
    if #saga.s >= MAX_STEPS then return {'refused', 'a job may have at most ' .. MAX_STEPS .. ' steps'} end
    number = #saga.s + 1
    step = {A.name, '', false}
    saga.s[number] = step
  end
  if A.given then redis.call('HSET', key, 'g' .. number, A.given) end
elseif not step then
  return {'refused', 'there is no such step'}
end

local former = step[2]
if former ~= '' and former ~= A.to and not STEP_ALLOWED[former][A.to] then
  return {'refused', 'a step that is ' .. former .. ' cannot become ' .. A.to}
end
if A.to == 'started' then step[3] = A.undo or false end
if A.to == 'done' and A.result then redis.call('HSET', key, 'p' .. number, A.result) end
if A.to == 'undoing' and saga.f ~= A.fence then saga.n, saga.f = (saga.n or 0) + 1, A.fence end
if A.to == 'undone' then saga.n, saga.f = 0, nil end
step[2], saga.l, j.sg = A.to, number, saga
if former ~= A.to then emit(j, 'job.step') end
save_job(j)
return ok()
