-- Who is on a channel. A: tenant, channel, limit (members), bytes (of their infos).
-- Answers {clients, users, {client, info, …}}; the list may be shorter than the number says.
local place = place_of(A.tenant, A.channel)
local nodes = {}
for _, node in ipairs(redis.call('SMEMBERS', at_key(place))) do
  local lease = redis.call('ZSCORE', LEASES, node)
  if lease and tonumber(lease) > NOW then nodes[#nodes + 1] = node end
end

local clients, room, bytes, found = 0, A.limit, A.bytes, {}
for _, node in ipairs(nodes) do
  local members = members_key(place, node)
  clients = clients + redis.call('HLEN', members)
  if room > 0 and bytes > 0 then
    local flat = redis.call('HRANDFIELD', members, room, 'WITHVALUES')
    for i = 1, #flat, 2 do
      bytes = bytes - #flat[i] - #flat[i + 1] - 8
      if bytes <= 0 then break end
      room = room - 1
      found[#found + 1], found[#found + 2] = flat[i], flat[i + 1]
    end
  end
end

-- Reading all users of a crowd takes this server tens of milliseconds: it does so once a second, whoever asks.
local CROWD, COUNTED = 500, P .. 'prs:n:' .. place
local users, known = 0, #nodes > 1 and clients >= CROWD and redis.call('GET', COUNTED)
if #nodes == 1 then
  users = redis.call('HLEN', users_key(place, nodes[1]))
elseif known then
  users = math.min(tonumber(known), clients)
elseif #nodes > 1 then
  local seen = {}
  for _, node in ipairs(nodes) do
    for _, user in ipairs(redis.call('HKEYS', users_key(place, node))) do
      if not seen[user] then seen[user], users = true, users + 1 end
    end
  end
  if clients >= CROWD then redis.call('SET', COUNTED, users, 'PX', 1000) end
end
return { clients, users, found }
