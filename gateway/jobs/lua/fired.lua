-- A firing has been dealt with. A: name, firing (ms), next (ms), job (its id, or nil: skipped).
-- Answers 1, or 0 when somebody else has dealt with it.
local due = redis.call('ZSCORE', P .. 'schedules:next', A.name)
local packed = redis.call('HGET', P .. 'schedules', A.name)
if not packed or not due or tonumber(due) ~= A.firing then return 0 end
local schedule = cmsgpack.unpack(packed)
if A.job then
  schedule.last, schedule.job = A.firing, A.job
else
  schedule.skipped = (schedule.skipped or 0) + 1
end
redis.call('HSET', P .. 'schedules', A.name, cmsgpack.pack(schedule))
redis.call('ZADD', P .. 'schedules:next', A.next, A.name)
return 1
