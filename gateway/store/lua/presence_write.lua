-- Write joins and leaves of one node, and tell the channels' subscribers. Repeating it changes nothing.
-- A: node, hidden, changes: list of {tenant, channel, stored, told, joined, client, user, info}.
-- Answers 1, or 0 when the node has no lease (any more): then nothing was written.
local lease = redis.call('ZSCORE', LEASES, A.hidden and 'h:' .. A.node or A.node)
if not lease then return 0 end

local function joins(place, client, user, info)
  if redis.call('HSET', members_key(place, A.node), client, info) == 0 then return false end
  redis.call('HINCRBY', users_key(place, A.node), user, 1)
  redis.call('SADD', at_key(place), A.node)
  redis.call('SADD', of_key(A.node), place)
  return true
end

local function leaves(place, client, user)
  local members, users = members_key(place, A.node), users_key(place, A.node)
  if redis.call('HDEL', members, client) == 0 then return false end
  if redis.call('HINCRBY', users, user, -1) <= 0 then redis.call('HDEL', users, user) end
  if redis.call('EXISTS', members) == 0 then
    redis.call('SREM', at_key(place), A.node)
    redis.call('SREM', of_key(A.node), place)
  end
  return true
end

local told, order = {}, {}
for _, change in ipairs(A.changes) do
  local tenant, channel, stored, tell, joined, client, user, info = unpack(change)
  local place, changed = place_of(tenant, channel), true
  if stored then
    if joined then changed = joins(place, client, user, info) else changed = leaves(place, client, user) end
  end
  if tell and changed then
    if not told[place] then
      told[place] = { '2' }
      order[#order + 1] = place
    end
    local lines = told[place]
    lines[#lines + 1] = (joined and '+' or '-') .. info
  end
end
for _, place in ipairs(order) do redis.call('PUBLISH', P .. 'live:' .. place, table.concat(told[place], '\n')) end
return 1
