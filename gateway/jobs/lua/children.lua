-- Read what became of children. A: tenant, id (of the parent), fence, children (their numbers), gather (its number).
-- Answers {'stale'} | {'ok', 1 if that gather has waited long enough, a child's id or its packed outcome, …}.
local j = held_job(A.tenant, A.id, A.fence)
if not j then return {'stale'} end
local key = saga_key(A.tenant, A.id)
local till = tonumber(redis.call('HGET', key, 'w' .. A.gather) or math.huge)
local answer = {'ok', till <= NOW and 1 or 0}
for i, number in ipairs(A.children) do answer[i + 2] = redis.call('HGET', key, 'c' .. number) end
return answer
