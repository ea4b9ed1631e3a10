-- Revoke A.kind (j or u), A.value of A.tenant; remember it A.ttl ms. Answers {'ok', at, ends} in ms, or {'full'}
-- when A.per_tenant of the tenant's, or A.reserved of the tenant's and A.total of all are remembered already.
forget_ended()
local known = redis.call('HEXISTS', AT, A.tenant .. ' ' .. A.kind .. ' ' .. A.value) == 1
if not known and full(A.tenant) then return {'full'} end
return {'ok', revoke(A.tenant, A.kind, A.value, A.ttl)}
