-- Delete the key A.id of A.tenant and tell every process, which remember it A.ttl ms. Answers its digest, or nil.
local index = P .. 'of:' .. A.tenant
local digest = redis.call('HGET', index, A.id)
if not digest then return nil end
forget_ended()
redis.call('DEL', P .. 'key:' .. digest)
redis.call('HDEL', index, A.id)
revoke(A.tenant, 'k', A.id, A.ttl)
return digest
