-- What the schedules of this shard have to do. A: limit, age_ms (a schedule whose type nobody has registered for so long
-- goes away). Answers {ms until the next firing, or -1; now; of each that is due: {name, record, firing (ms)} …}.
-- Nothing fires while its type is paused, or, unless it may overlap, while the job of its last firing is open: the record
-- comes with `skip`.
local now_due = redis.call('ZRANGEBYSCORE', P .. 'schedules:next', '-inf', NOW, 'WITHSCORES', 'LIMIT', 0, A.limit)
local answer = {0, NOW}
for i = 1, #now_due, 2 do
  local name = now_due[i]
  local packed = redis.call('HGET', P .. 'schedules', name)
  local seen = tonumber(redis.call('ZSCORE', P .. 'types:seen', name) or 0)
  if not packed or seen < NOW - A.age_ms then
    redis.call('HDEL', P .. 'schedules', name)
    redis.call('ZREM', P .. 'schedules:next', name)
  else
    local schedule, task = cmsgpack.unpack(packed), type_of(name)
    local former = not schedule.overlap and schedule.job and readable_job(schedule.tenant, schedule.job)
    local skip = task and task.pa or former and not TERMINAL[former.st]
    answer[#answer + 1] = {name, packed, tonumber(now_due[i + 1]), skip and 1 or 0}
  end
end
local first = redis.call('ZRANGE', P .. 'schedules:next', 0, 0, 'WITHSCORES')
answer[1] = first[2] and math.max(0, math.ceil(tonumber(first[2]) - NOW)) or -1
return answer
