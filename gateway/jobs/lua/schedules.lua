-- List the schedules of a tenant. A: tenant. Answers of each: name, record, next firing (ms).
local answer = {}
local records = redis.call('HGETALL', P .. 'schedules')
for i = 1, #records, 2 do
  if cmsgpack.unpack(records[i + 1]).tenant == A.tenant then
    local next = redis.call('ZSCORE', P .. 'schedules:next', records[i])
    answer[#answer + 1] = {records[i], records[i + 1], tonumber(next or 0)}
  end
end
return answer
