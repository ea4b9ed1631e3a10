-- The worker lives: extend the lease. A: tenant, id, fence, lease_ms. Answers 'ok', 'cancel' or 'stale'.
local j = load_job(A.tenant, A.id)
if not j or not HELD[j.st] or j.fe ~= A.fence then return 'stale' end
due_at(j, NOW + A.lease_ms)
return j.st == 'cancelling' and 'cancel' or 'ok'
