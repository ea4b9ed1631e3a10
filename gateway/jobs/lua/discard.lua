-- Take dead letters out; a job stays failed, and can be read as long as it is kept. A: tenant (the owner), ids.
-- Answers 1 or 0 for each: whether it was there.
local answer = {}
for i, id in ipairs(A.ids) do
  local there
  if is_raw(id) then
    there = dead_leave(A.tenant, id, redis.call('HGET', dead_message_key(A.tenant, id), 'g') or '')
  else
    local j = load_job(A.tenant, id)
    there = j and undie(j)
    if there then save_job(j) end
  end
  answer[i] = there and 1 or 0
end
return answer
