-- List jobs, newest first. A: tenant, status, type, owner, parent (each may be nil), before (an id), limit, scan (how
-- many entries may be looked at). Answers {id to go on before, or '', job, job, …}; a job that cannot be read is left out,
-- and the index loses those that are forgotten.
local index = A.parent and 'p:' .. A.parent or A.owner and 'o:' .. A.owner or A.type and 't:' .. A.type
  or A.status and 's:' .. A.status or 'all'
local key = index_key(A.tenant, index)
local answer, before, left = {''}, A.before, A.scan
while #answer <= A.limit and left > 0 do
  local chunk = math.min(100, left)
  local ids = redis.call('ZREVRANGEBYLEX', key, before and '(' .. before or '+', '-', 'LIMIT', 0, chunk)
  left = left - chunk
  for _, id in ipairs(ids) do
    if #answer > A.limit then
      answer[1] = before
      return answer
    end
    before = id
    local j, damaged = readable_job(A.tenant, id)
    if not j and not damaged then redis.call('ZREM', key, id) end
    if j and (not A.status or j.st == A.status) and (not A.type or j.ty == A.type)
      and (not A.owner or j.ow == A.owner) then
      answer[#answer + 1] = job_json(j)
    end
  end
  if #ids < chunk then return answer end
end
answer[1] = before or ''
return answer
