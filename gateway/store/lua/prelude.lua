-- What every script starts with. KEYS[1] is the tag of one shard (a Redis Cluster hash tag); every key a
-- script touches begins with it. ARGV[1] is one MessagePack map: the arguments by name.
--
-- Rules: check everything before the first write (a failing script keeps what it wrote); never decode user
-- JSON (cjson turns [] into {} and loses integers above 2^53): callers pass ready fragments; time is ours.
local P = KEYS[1]
local A = ARGV[1] and cmsgpack.unpack(ARGV[1]) or {}
local NOW
do
  local t = redis.call('TIME')
  NOW = t[1] * 1000 + math.floor(t[2] / 1000)
end

local META_TTL = 30 * 86400 * 1000   -- a channel nobody published to for so long begins a new life
local EMPTY_TTL = 86400 * 1000       -- a channel somebody only looked at
local DEDUPE_TTL = 300 * 1000        -- a repeated event id is recognised for so long

local DIGITS = '0123456789abcdefghijklmnopqrstuvwxyz'
local function base36(number)
  local text = ''
  repeat
    local digit = number % 36
    text = string.sub(DIGITS, digit + 1, digit + 1) .. text
    number = (number - digit) / 36
  until number == 0
  return text
end

-- RFC 3339 in UTC with milliseconds. Days to date: Howard Hinnant, "chrono-compatible low-level date algorithms".
local function date_of(days)
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT', year, month, doy - math.floor((153 * mp + 2) / 5) + 1)
end

local DATES, TIMES = {}, {}   -- what this script has worked out already: the same few times come again and again
local function rfc3339(ms)
  local text = TIMES[ms]
  if text then return text end
  local days = math.floor(ms / 86400000)
  local rest = math.floor(ms / 1000) % 86400
  DATES[days] = DATES[days] or date_of(days)
  text = DATES[days] .. string.format('%02d:%02d:%02d.%03dZ', math.floor(rest / 3600), math.floor(rest % 3600 / 60),
    rest % 60, ms % 1000)
  TIMES[ms] = text
  return text
end

-- The generation names what this server remembers. Its run_id changes with every restart and failover, after
-- which the server may know less than it told others; then the generation is raised, so that rewound offsets
-- never look like repeats. It starts from the clock, so that an emptied server does not reuse one.
local GENERATION
local function generation()
  if GENERATION then return GENERATION end
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  local known = redis.call('HMGET', P .. 'gen', 'run', 'gen')
  if known[1] == run then
    GENERATION = base36(tonumber(known[2]))
  else
    local gen = math.max(tonumber(known[2] or 0) + 1, NOW)
    redis.call('HSET', P .. 'gen', 'run', run, 'gen', string.format('%.0f', gen))
    GENERATION = base36(gen)
  end
  return GENERATION
end

local function meta_key(tenant, channel) return P .. 'meta:' .. tenant .. ':' .. channel end
local function stream_key(tenant, channel) return P .. 'log:' .. tenant .. ':' .. channel end

local function epoch_of(born) return generation() .. '.' .. born end

local function sequence_of(tenant) return tonumber(redis.call('GET', P .. 'seq:' .. tenant) or 0) end

-- The split of a stream entry's id: offset and sequence.
local function entry_id(id)
  local offset, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(offset), tonumber(sequence)
end

-- Whether a log holds the channel's head: not when the history has been switched off since.
local function reaches(log, head)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  return last and entry_id(last[1]) == head
end

-- Append one event to one channel and publish it live. `channel` is {name, size, ttl ms}: size -1 keeps
-- everything and sets no expiry (the owner deletes it), 0 keeps nothing. Returns epoch and offset.
local function append(tenant, channel, event, json, sequence)
  local name, size, ttl = channel[1], channel[2], channel[3]
  local meta = meta_key(tenant, name)
  local known = redis.call('HMGET', meta, 'born', 'offset', 'seq')
  local born = known[1] or base36(sequence)
  local offset = tonumber(known[2] or 0) + 1
  local log = stream_key(tenant, name)
  if not known[2] then
    -- A log that outlived its meta: never go on below it.
    local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    if last then offset = entry_id(last[1]) + 1 end
  end
  redis.call('HSET', meta, 'born', born, 'offset', offset, 'seq', sequence)
  -- The header holds the sequence of the channel's previous publication, so that the oldest entry left after
  -- trimming proves what was trimmed.
  local entry = (known[3] or '0') .. ' ' .. event.type .. ' ' .. (event.key or '-') .. ' '
    .. (event.info or '-') .. '\n' .. json
  if size ~= 0 then
    local id = offset .. '-' .. sequence
    if size > 0 then
      redis.call('XADD', log, 'MAXLEN', '=', size, id, 'e', entry)
      redis.call('PEXPIRE', log, ttl)
    else
      redis.call('XADD', log, id, 'e', entry)
    end
  end
  if size >= 0 then
    redis.call('PEXPIRE', meta, math.max(META_TTL, ttl))
  elseif known[1] and not known[2] then
    redis.call('PERSIST', meta)   -- somebody looked before there was anything; from now on the owner deletes it
  end
  local epoch = epoch_of(born)
  redis.call('PUBLISH', P .. 'live:' .. tenant .. ':' .. name,
    '1 ' .. epoch .. ' ' .. offset .. ' ' .. sequence .. ' ' .. entry)
  return epoch, offset
end

-- Record one event on all its channels under one sequence. `event`: type, head, tail, and perhaps key
-- (conflation), info (publishing client). Returns a list {epoch, offset, epoch, offset, …} and the sequence.
local function record(tenant, event, channels)
  local sequence = redis.call('INCR', P .. 'seq:' .. tenant)
  local json = event.head .. ',"time":"' .. rfc3339(NOW) .. '","sequence":"'
    .. string.format('%016.0f', sequence) .. '"' .. event.tail
  local positions = {}
  for i, channel in ipairs(channels) do
    positions[2 * i - 1], positions[2 * i] = append(tenant, channel, event, json, sequence)
  end
  return positions, sequence
end
