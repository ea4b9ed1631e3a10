-- Begin, show or renew a node's lease, and sweep a little after nodes that are gone.
-- A: node, hidden (still announcing), begin, show, old (the node this one replaces), lease (ms).
-- Answers {1 when the lease was there or has begun, generation, 1 when there is more to sweep}.
local member = A.hidden and 'h:' .. A.node or A.node
local known = A.begin or redis.call('ZSCORE', LEASES, member)
if known then
  if A.show then
    redis.call('ZREM', LEASES, member)
    member = A.node
    if A.old then bury(A.old) end
  end
  redis.call('ZADD', LEASES, NOW + A.lease, member)
end

local ended = redis.call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', 0, 8)
for _, name in ipairs(ended) do bury((string.gsub(name, '^h:', ''))) end

local node = redis.call('SRANDMEMBER', GONE)
if node then
  for _, place in ipairs(redis.call('SPOP', of_key(node), 64)) do
    redis.call('UNLINK', members_key(place, node), users_key(place, node))
    redis.call('SREM', at_key(place), node)
  end
  if redis.call('EXISTS', of_key(node)) == 0 then redis.call('SREM', GONE, node) end
end
return { known and 1 or 0, generation(), redis.call('EXISTS', GONE) }
