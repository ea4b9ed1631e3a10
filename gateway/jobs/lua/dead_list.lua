-- Find dead letters, newest first. A: tenant (the owner), limit, scan (entries that may be looked at), bare (ids alone);
-- filters, each may be nil: group, error_type, reason, type, pool, since_ms, until_ms; before_ms and before (an id).
-- Answers {ms, id} to go on after ('' at the end), how many the owner has, how many were dropped, then each.
local owner = A.tenant
local key = A.group and dead_group_key(owner, A.group) or dead_key(owner)
local rank = A.before_ms and dead_rank(key, A.before_ms, A.before) or 0
if A.until_ms then rank = math.max(rank, dead_rank(key, A.until_ms)) end
local answer = {{0, ''}, redis.call('ZCARD', dead_key(owner)),
  tonumber(redis.call('HGET', P .. 'deadx:' .. owner, 'dropped') or 0)}
local types, last, left, stale = {}, {0, ''}, A.scan, {}

local function wanted(group, facts)
  if A.error_type then
    if types[group] == nil then types[group] = dead_group(owner, group) end
    if types[group] ~= A.error_type then return false end
  end
  return (not A.reason or facts.reason == A.reason) and (not A.type or facts.type == A.type)
    and (not A.pool or facts.pool == A.pool)
end

local function page()
  while left > 0 do
    local chunk = math.min(100, left)
    local found = redis.call('ZREVRANGE', key, rank, rank + chunk - 1, 'WITHSCORES')
    for i = 1, #found, 2 do
      local ms = tonumber(found[i + 1])
      if A.since_ms and ms < A.since_ms then return {0, ''} end
      if #answer == A.limit + 3 then return last end
      local id, group = string.match(found[i], '^(%S+) ?(%S*)$')
      if A.group then group = A.group end
      local well, facts = pcall(dead_load, owner, id)
      if not well then
        -- Its record is damaged; whoever repairs it finds it here again.
      elseif not facts or (facts.group ~= group and group ~= 'raw') then
        stale[#stale + 1] = {id, group}
      elseif wanted(group, facts) then
        answer[#answer + 1] = A.bare and id or dead_json(owner, id, ms, facts)
      end
      last = {ms, id}
    end
    if #found < 2 * chunk then return {0, ''} end
    rank, left = rank + chunk, left - chunk
  end
  return last
end

answer[1] = page()
for _, entry in ipairs(stale) do dead_leave(owner, entry[1], entry[2]) end
return answer
