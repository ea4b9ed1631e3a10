-- Pause a job type, or resume it. A: type, paused. Answers 1, or 0 when there is no such type.
local packed = redis.call('HGET', P .. 'types', A.type)
if not packed then return 0 end
local task = cmsgpack.unpack(packed)
task.pa = A.paused or nil
redis.call('HSET', P .. 'types', A.type, cmsgpack.pack(task))
if not A.paused then kick('t ' .. A.type) end
return 1
