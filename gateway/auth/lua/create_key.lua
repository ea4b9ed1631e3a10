-- Keep an API key: A.digest of its secret, A.id, A.tenant, A.name, A.scopes (text), A.created_at (ms, text).
-- Answers 1, or 0 when the tenant has A.most keys, or has A.per_tenant revocations remembered: a key can always be
-- revoked, so what may be revoked is bounded here. What other tenants have revoked does not count.
forget_ended()
local index = P .. 'of:' .. A.tenant
if redis.call('HLEN', index) >= A.most or remembered(A.tenant) >= A.per_tenant then return 0 end
redis.call('HSET', P .. 'key:' .. A.digest, 'id', A.id, 'tenant', A.tenant, 'name', A.name, 'scopes', A.scopes,
  'created_at', A.created_at)
redis.call('HSET', index, A.id, A.digest)
return 1
