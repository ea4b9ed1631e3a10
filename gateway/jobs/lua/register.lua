-- Make job types known, and when their schedules fire. A: types {name: {po, ma, tm, mr}}, schedules {name: {spec, tenant,
-- cron, zone, input, overlap, next}} of this shard's tenants; `next` (ms) is missing when the caller does not know it yet.
-- Answers {now, name of a schedule whose next firing is asked for, …}.
local function same(a, b) return a and a.po == b.po and a.ma == b.ma and a.tm == b.tm and a.mr == b.mr end

for name, task in pairs(A.types) do
  local packed = redis.call('HGET', P .. 'types', name)
  local known = packed and cmsgpack.unpack(packed)
  if not same(known, task) then
    task.pa = known and known.pa
    redis.call('HSET', P .. 'types', name, cmsgpack.pack(task))
    kick('t ' .. name)   -- its cap may be another
  end
  redis.call('ZADD', P .. 'types:seen', NOW, name)
  if not A.schedules[name] then   -- it has none any more
    redis.call('HDEL', P .. 'schedules', name)
    redis.call('ZREM', P .. 'schedules:next', name)
  end
end

local answer = {NOW}
for name, wanted in pairs(A.schedules) do
  local packed = redis.call('HGET', P .. 'schedules', name)
  local known = packed and cmsgpack.unpack(packed)
  if known and known.spec == wanted.spec then
    -- `types:seen` says that it lives
  elseif not wanted.next then
    answer[#answer + 1] = name
  else
    local next = tonumber(redis.call('ZSCORE', P .. 'schedules:next', name) or wanted.next)
    if next > NOW then next = wanted.next end   -- else a firing of the former schedule is due, and stays so
    wanted.next = nil
    if known then wanted.last, wanted.job, wanted.skipped = known.last, known.job, known.skipped end
    redis.call('HSET', P .. 'schedules', name, cmsgpack.pack(wanted))
    redis.call('ZADD', P .. 'schedules:next', next, name)
  end
end
return answer
