-- What was revoked after version A.since, at most A.limit: lines as they are published, without the version before.
local lines = {}
local found = redis.call('ZRANGEBYSCORE', LOG, string.format('(%.0f', A.since), '+inf', 'WITHSCORES', 'LIMIT', 0, A.limit)
for i = 1, #found, 2 do
  lines[#lines + 1] = string.format('%.0f', tonumber(found[i + 1])) .. ' ' .. redis.call('HGET', AT, found[i]) .. ' ' .. found[i]
end
return lines
