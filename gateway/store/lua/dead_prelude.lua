-- Dead letters: what waits for a person. An owner is a tenant, or '' for messages that belong to none (they live with
-- the operator's tenant). An entry is a job ('job_…') or a message ('dl_…'); its group is the errors like it.
--   dead:<owner>           '<id> <group>' by the time it died (ms)
--   dead:<owner>:<group>   the ids of one group, likewise    dead:<owner>:raw  those that are messages
--   deadg:<owner>          groups by when last seen          deadt:<owner>     {group: '<error type>\n<JSON>'}
--   deadm:<owner>:<id>     a message: m JSON members, b body (base64), r reason, g group, t died at, l last seen, n times
--   deadx:<owner>          {bytes: of its messages, dropped: entries that made room for newer ones}
--   deadraw                '<owner> <id> <group>' of all messages of this shard by time
local DEAD_MOST = 100000               -- entries of an owner
local RAW_MOST = 10000                 -- messages of an owner
local RAW_BYTES = 64 * 1024 * 1024     -- of them together
local TOLD_GROUPS = 100                -- beyond so many, a further group is no news

local function dead_key(owner) return P .. 'dead:' .. owner end
local function dead_group_key(owner, group) return P .. 'dead:' .. owner .. ':' .. group end
local function dead_message_key(owner, id) return P .. 'deadm:' .. owner .. ':' .. id end
local function is_raw(id) return string.sub(id, 1, 3) == 'dl_' end

local function tell_ops(owner, type, data)
  local tenant = owner == '' and OPERATOR or owner
  record(tenant, {
    type = type,
    head = '{"specversion":"1.0","id":"dead-letters-' .. base36(NOW) .. '-' .. base36(sequence_of(tenant) + 1)
      .. '","source":"/v1/dead-letters","type":"' .. type .. '"',
    tail = ',"dataschema":"' .. DEAD_SCHEMA .. '","datacontenttype":"application/json","data":{"unowned":'
      .. (owner == '' and 'true' or 'false') .. data .. '}}',
    -- Whatever the rules of the namespace say: what an operator must hear of is kept for a week.
  }, {{'ops', 1000, 7 * 86400 * 1000}})
end

-- Take an entry out; answers whether it was there.
local function dead_leave(owner, id, group)
  if redis.call('ZREM', dead_key(owner), id .. ' ' .. group) == 0 then return false end
  redis.call('ZREM', dead_group_key(owner, group), id)
  if redis.call('EXISTS', dead_group_key(owner, group)) == 0 then
    redis.call('ZREM', P .. 'deadg:' .. owner, group)
    redis.call('HDEL', P .. 'deadt:' .. owner, group)
  end
  if is_raw(id) then
    local key = dead_message_key(owner, id)
    redis.call('HINCRBY', P .. 'deadx:' .. owner, 'bytes', -redis.call('HSTRLEN', key, 'b'))
    redis.call('DEL', key)
    redis.call('ZREM', dead_group_key(owner, 'raw'), id .. ' ' .. group)
    redis.call('ZREM', P .. 'deadraw', owner .. ' ' .. id .. ' ' .. group)
  end
  if redis.call('EXISTS', dead_key(owner)) == 0 then
    redis.call('DEL', P .. 'deadx:' .. owner)
    tell_ops(owner, 'dead-letters.cleared', '')
  end
  return true
end

-- Drop the oldest of a set of entries; answers false when there is none.
local function dead_drop(owner, key)
  local oldest = redis.call('ZRANGE', key, 0, 0)[1]
  if not oldest then return false end
  redis.call('HINCRBY', P .. 'deadx:' .. owner, 'dropped', 1)
  local id, group = string.match(oldest, '^(%S+) (%S+)$')
  return dead_leave(owner, id, group)
end

-- Put an entry in; `group` is {id, error type, JSON}.
local function dead_enter(owner, id, reason, group)
  local news = ',"id":"' .. id .. '","reason":"' .. reason .. '"'
  -- What is wrong with a message of nobody's may quote it: that is for the operator alone.
  if owner ~= '' then news = news .. ',"group":' .. group[3] end
  local first = redis.call('EXISTS', dead_key(owner)) == 0
  local fresh = redis.call('EXISTS', dead_group_key(owner, group[1])) == 0
  redis.call('ZADD', dead_key(owner), NOW, id .. ' ' .. group[1])
  redis.call('ZADD', dead_group_key(owner, group[1]), NOW, id)
  redis.call('ZADD', P .. 'deadg:' .. owner, NOW, group[1])
  redis.call('HSET', P .. 'deadt:' .. owner, group[1], group[2] .. '\n' .. group[3])
  if redis.call('ZCARD', dead_key(owner)) > DEAD_MOST then dead_drop(owner, dead_key(owner)) end
  if first then tell_ops(owner, 'dead-letters.opened', news) end
  if fresh and redis.call('ZCARD', P .. 'deadg:' .. owner) <= TOLD_GROUPS then
    tell_ops(owner, 'dead-letters.new-group', news)
  end
end

-- The rank, newest first, of what comes after the entry `id` that died at `ms`; without an id, of what is not younger.
local function dead_rank(key, ms, id)
  local text = string.format('%.0f', ms)
  local rank = redis.call('ZCOUNT', key, '(' .. text, '+inf')
  while id do
    local ties = redis.call('ZREVRANGEBYSCORE', key, text, text, 'LIMIT',
      rank - redis.call('ZCOUNT', key, '(' .. text, '+inf'), 100)
    for _, entry in ipairs(ties) do
      if string.match(entry, '^%S+') < id then return rank end
      rank = rank + 1
    end
    if #ties < 100 then return rank end
  end
  return rank
end
