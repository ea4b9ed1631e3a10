-- What is revoked, as one log of all tenants in the order of its versions. Ids are "<tenant> <kind> <value>":
-- kind j a token's id, u a user, k an API key. A version is the clock in microseconds, or one more than the last:
-- it never comes twice, not even after the server has lost its memory, so "all after version v" misses nothing.
local AT, LOG, ENDS = P .. 'revoked', P .. 'revoked:log', P .. 'revoked:ends'
local OF, LAST = P .. 'revoked:of', P .. 'revoked:last'

local function forget_ended()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', ENDS, '-inf', NOW, 'LIMIT', 0, 200)) do
    redis.call('ZREM', LOG, id)
    redis.call('ZREM', ENDS, id)
    redis.call('HDEL', AT, id)
    local tenant = string.match(id, '^%S+')
    if redis.call('HINCRBY', OF, tenant, -1) <= 0 then redis.call('HDEL', OF, tenant) end
  end
end

local function remembered(tenant) return tonumber(redis.call('HGET', OF, tenant) or 0) end

-- Whether a tenant may revoke no more. The first A.reserved are every tenant's own, whatever the others took.
local function full(tenant)
  local own = remembered(tenant)
  return own >= A.per_tenant or (own >= A.reserved and redis.call('ZCARD', LOG) >= A.total)
end

-- Revoke, and tell every process; a second time moves the moment, and never shortens the memory. Returns the
-- moment and the end of the memory in ms.
local function revoke(tenant, kind, value, ttl)
  local id = tenant .. ' ' .. kind .. ' ' .. value
  local before = tonumber(redis.call('ZSCORE', ENDS, id) or 0)
  if before == 0 then redis.call('HINCRBY', OF, tenant, 1) end
  local ends = math.max(before, NOW + ttl)
  local t = redis.call('TIME')
  local previous = redis.call('GET', LAST) or '0'
  local version = string.format('%.0f', math.max(tonumber(previous) + 1, t[1] * 1000000 + t[2]))
  local moment = string.format('%.0f %.0f', NOW, ends)
  redis.call('SET', LAST, version)
  redis.call('HSET', AT, id, moment)
  redis.call('ZADD', LOG, version, id)
  redis.call('ZADD', ENDS, string.format('%.0f', ends), id)
  redis.call('PUBLISH', P .. 'control:revoked', previous .. ' ' .. version .. ' ' .. moment .. ' ' .. id)
  return NOW, ends
end
