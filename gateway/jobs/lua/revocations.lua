-- Foreign jobs somebody cancelled here, for the system that runs them. A: source, told (list of '<tenant> <id> <foreign id>'
-- it has been told of), limit. Answers those it has not.
local key = P .. 'revoke:' .. A.source
for _, entry in ipairs(A.told) do redis.call('SREM', key, entry) end
return redis.call('SRANDMEMBER', key, A.limit)
