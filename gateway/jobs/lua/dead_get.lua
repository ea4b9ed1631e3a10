-- Read one dead letter. A: tenant (the owner), id. Answers false when there is none, else {its first members, then of a
-- job: the job, its input, its attempts (one a line); of a message: its members, those that count it, body (base64)}.
local owner = A.tenant
local facts = dead_load(owner, A.id)
local ms = facts and redis.call('ZSCORE', dead_key(owner), A.id .. ' ' .. facts.group)
if not ms then return false end
local answer = {dead_head(owner, A.id, facts.group, tonumber(ms), facts), facts.shown(), facts.counted}
if is_raw(A.id) then
  answer[4] = redis.call('HGET', dead_message_key(owner, A.id), 'b')
else
  local more = redis.call('HMGET', job_key(owner, A.id), 'i', 'a')
  answer[3], answer[4] = more[1], expand(more[2] or '')
end
return answer
