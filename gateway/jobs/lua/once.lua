-- What shall happen once in a run. The field `e` of a job's hash is MessagePack: name -> {token of the call that began
-- it, result (JSON; nil while the end is not known)}.
-- A: tenant, id, fence, name, token, to: 'begin' (again: what may have happened may be done again; most: how many a job
-- may have), 'done' (result), 'undone' (it did not happen).
-- Answers {'stale'} | {'ok'} | {'done', result} | {'unknown'} (it may have happened) | {'full'}.
local j = held_job(A.tenant, A.id, A.fence)
if not j then return {'stale'} end
local key = job_key(A.tenant, A.id)
local kept = redis.call('HGET', key, 'e')
local effects = kept and cmsgpack.unpack(kept) or {}
local effect = effects[A.name]

if A.to == 'begin' then
  if effect and effect[2] then return {'done', effect[2]} end
  if effect and effect[1] ~= A.token and not A.again then return {'unknown'} end
  local count = 0
  for _ in pairs(effects) do count = count + 1 end
  if not effect and count >= A.most then return {'full'} end
  effects[A.name] = {A.token}
elseif not effect or effect[1] ~= A.token then
  return {'stale'}
elseif A.to == 'done' then
  effect[2] = A.result
elseif not effect[2] then
  effects[A.name] = nil
end
redis.call('HSET', key, 'e', cmsgpack.pack(effects))
return {'ok'}
