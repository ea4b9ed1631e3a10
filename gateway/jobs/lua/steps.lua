-- Read a job's steps, in the order they began. A: tenant, id. Answers {run they belong to, name, status, undo or '',
-- …}.
local j = load_job(A.tenant, A.id)
if not j or not j.sg then return {0} end
local answer = {j.sg.rn}
for _, step in ipairs(j.sg.s) do
  answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = step[1], step[2], step[3] or ''
end
return answer
