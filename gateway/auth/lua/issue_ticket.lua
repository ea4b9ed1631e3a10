-- Keep a ticket: A.ticket (its hash), A.principal (JSON, not looked at), A.ttl (ms).
local key = P .. A.ticket
redis.call('HSET', key, 'principal', A.principal, 'issued', string.format('%.0f', NOW))
redis.call('PEXPIRE', key, A.ttl)
return 1
