-- List the job types. Answers of each: name, record, when it was last registered (ms), open jobs, jobs that wait to be
-- admitted, jobs admitted under its cap.
local answer = {}
local records = redis.call('HGETALL', P .. 'types')
for i = 1, #records, 2 do
  local name = records[i]
  answer[#answer + 1] = {
    name, records[i + 1], tonumber(redis.call('ZSCORE', P .. 'types:seen', name) or 0),
    tonumber(redis.call('HGET', P .. 'open:type', name) or 0), tonumber(redis.call('HGET', P .. 'waiting', name) or 0),
    redis.call('SCARD', P .. 'adm:t:' .. name),
  }
end
return answer
