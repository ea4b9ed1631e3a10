-- The worker lives: extend the lease. A: tenant, id, fence, lease_ms. Answers 'ok', 'cancel' or 'stale'.
local j = held_job(A.tenant, A.id, A.fence)
if not j then return 'stale' end
due_at(j, NOW + A.lease_ms)
return j.st == 'cancelling' and 'cancel' or 'ok'
