-- The jobs that stand for another system's ids. A: source, ttl_ms, ids: a list of {id, tenant, job} (without tenant and
-- job: only look). Answers '<tenant> <job id>' or '' for each.
local answer = {}
for i, wanted in ipairs(A.ids) do
  local key = P .. 'alias:' .. A.source .. ':' .. wanted[1]
  if wanted[2] then redis.call('SET', key, wanted[2] .. ' ' .. wanted[3], 'NX') end
  local known = redis.call('GET', key)
  if known then redis.call('PEXPIRE', key, A.ttl_ms) end
  answer[i] = known or ''
end
return answer
