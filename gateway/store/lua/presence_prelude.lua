-- Who is on which channel (see gateway/store/presence.py). A node keeps one lease; its members are valid while
-- it lasts and cost nothing to renew. A lease named `h:<node>` is hidden: the node is still announcing.
local LEASES = P .. 'prs'           -- sorted set: node by the end of its lease
local GONE = P .. 'prs:gone'        -- set: nodes whose lease ended and whose members are not yet swept

local function of_key(node) return P .. 'prs:of:' .. node end            -- set: places where the node has members
local function at_key(place) return P .. 'prs:at:' .. place end          -- set: nodes with members at a place
local function members_key(place, node) return P .. 'prs:in:' .. place .. ':' .. node end  -- hash: client, info
local function users_key(place, node) return P .. 'prs:us:' .. place .. ':' .. node end    -- hash: user, clients

local function place_of(tenant, channel) return tenant .. ':' .. channel end

-- From here on nobody sees the node's members.
local function bury(node)
  redis.call('ZREM', LEASES, node, 'h:' .. node)
  redis.call('SADD', GONE, node)
end
