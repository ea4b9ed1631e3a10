-- How dead letters are read: jobs and messages look alike.

-- An entry's facts, or nil when there is nothing behind it: {reason, group, type, pool, counted, shown (function: the
-- job's JSON, or a message's members without those that count it)}.
local function dead_load(owner, id)
  if is_raw(id) then
    local found = redis.call('HMGET', dead_message_key(owner, id), 'r', 'g', 'm', 'l', 'n')
    return found[1] and {
      reason = found[1], group = found[2], shown = function() return found[3] end,
      counted = '"last_seen_at":' .. time_json(tonumber(found[4])) .. ',"times":' .. found[5],
    }
  end
  local j = load_job(owner, id)
  return j and j.dg and {
    reason = j.dr, group = j.dg, type = j.ty, pool = j.po, shown = function() return job_json(j) end,
  }
end

-- A group's error type and JSON.
local function dead_group(owner, group)
  local text = redis.call('HGET', P .. 'deadt:' .. owner, group) or 'Error\n{}'
  return string.match(text, '^([^\n]*)\n(.*)$')
end

-- The members an entry begins with.
local function dead_head(owner, id, group, ms, facts)
  local _, shown = dead_group(owner, group)
  return '"id":"' .. id .. '","kind":"' .. (is_raw(id) and 'message' or 'job') .. '","reason":"' .. facts.reason
    .. '","died_at":' .. time_json(ms) .. ',"group":' .. shown .. ','
end

local function dead_json(owner, id, ms, facts)
  local head = '{' .. dead_head(owner, id, facts.group, ms, facts)
  if is_raw(id) then return head .. '"job":null,"message":{' .. facts.shown() .. ',' .. facts.counted .. '}}' end
  return head .. '"job":' .. facts.shown() .. ',"message":null}'
end
