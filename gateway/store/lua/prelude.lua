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
  local info = redis.call('INFO', 'server')
  local _, before = string.find(info, 'run_id:', 1, true)
  local run = string.match(info, '^%w+', before + 1)
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

-- Logs that are kept whole are many and nearly all the same text, so they are stored abbreviated: a control character,
-- which our JSON never holds, stands for a term, \30 for the channel's name behind its colon and \31 for its word (what
-- else its events repeat). Stored entries use these codes: terms may be added (up to \29), never changed.
-- Not \9, \10 and \13, which may stand between the tokens of JSON.
local function terms_of(name, word)
  local job = '/v1/jobs/' .. name
  return {
    ['\1'] = '{"specversion":"1.0","id":"' .. name .. '-', ['\2'] = '","source":"/v1/jobs","type":"job.',
    ['\3'] = ',"time":"', ['\4'] = '","sequence":"',
    ['\5'] = '","subject":"' .. name .. '","dataschema":"urn:gateway:schema:job:', ['\6'] = ',"traceparent":"00-' .. word .. '-',
    ['\7'] = '","datacontenttype":"application/json","data":', ['\8'] = '{"id":"' .. name .. '","type":"',
    ['\11'] = '","tenant":"default","owner":', ['\12'] = ',"channels":[],"priority":"',
    ['\14'] = '","callback_url":null,"trace_id":"' .. word .. '","links":{"self":"' .. job .. '","events":"' .. job
      .. '/events","result":"' .. job .. '/result","stream":"/v1/stream?channel=job:' .. name .. '"},"pool":"',
    ['\15'] = '","max_attempts":', ['\16'] = ',"status":"', ['\17'] = '","progress":',
    ['\18'] = ',"run":1,"attempt":1,"version":', ['\19'] = ',"created_at":"', ['\20'] = '","queued_at":',
    ['\21'] = ',"started_at":', ['\22'] = ',"finished_at":', ['\23'] = ',"run_after":null,"expires_at":null,"result":',
    ['\24'] = ',"result_url":null,"error":', ['\25'] = '","sequence":"00000000', ['\26'] = '","progress":null',
    ['\27'] = ',"finished_at":null,"run_after":null,"expires_at":null,"result":null',
    ['\28'] = '{"run":1,"attempt":1,"worker":', ['\29'] = ',"result_url":null,"error":null', ['\30'] = name, ['\31'] = word,
  }
end

-- Every job event passes here once or twice, and this is most of what its script costs: one pass, over the short text
-- only, with terms that hold name and word already. (%c also finds \9, \10, \13 and DEL: no terms, they stay.)
local EXPANDED = {}   -- the terms of the last name and word: a script writes about one job several times
local function expand(text, name, word)
  name, word = name or '', word or ''
  if EXPANDED.name ~= name or EXPANDED.word ~= word then
    EXPANDED = {name = name, word = word, terms = terms_of(name, word)}
  end
  return (string.gsub(text, '%c', EXPANDED.terms))
end

-- Put `by` in the place of every `what`, which is no pattern.
local function replace(text, what, by)
  local parts, from = {}, 1
  local first, last = string.find(text, what, from, true)
  while first do
    parts[#parts + 1] = string.sub(text, from, first - 1)
    from = last + 1
    first, last = string.find(text, what, from, true)
  end
  parts[#parts + 1] = string.sub(text, from)
  return table.concat(parts, by)
end

-- Abbreviate a text that was not made so: its terms, in the order in which they stand there.
local function shorten(text, name, word, terms)
  if string.find(text, '%c') then return text end
  text = replace(replace(text, name, '\30'), word, '\31')
  local known, short, from = terms_of('\30', '\31'), '', 1
  for code in string.gmatch(terms, '.') do
    local first, last = string.find(text, known[code], from, true)
    if first then
      short = short .. string.sub(text, from, first - 1) .. code
      from = last + 1
    end
  end
  return short .. string.sub(text, from)
end

-- Turn the entries of a log, as XRANGE gives them, into {id, entry, id, entry, …}. `word` is the channel's, if it has one.
local function entries_of(channel, word, found)
  local flat, name = {}, word and string.match(channel, ':(.*)$')
  for i, entry in ipairs(found) do
    flat[2 * i - 1], flat[2 * i] = entry[1], name and expand(entry[2][2], name, word) or entry[2][2]
  end
  return flat
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
  if event.word and size < 0 and not known[2] then redis.call('HSET', meta, 'word', event.word) end
  redis.call('HSET', meta, 'born', born, 'offset', offset, 'seq', sequence)
  -- The header holds the sequence of the channel's previous publication, so that the oldest entry left after
  -- trimming proves what was trimmed.
  local head = (known[3] or '0') .. ' ' .. event.type .. ' ' .. (event.key or '-') .. ' ' .. (event.info or '-') .. '\n'
  local entry = head .. json
  if size ~= 0 then
    local id = offset .. '-' .. sequence
    if size > 0 then
      redis.call('XADD', log, 'MAXLEN', '=', size, id, 'e', entry)
      redis.call('PEXPIRE', log, ttl)
    else
      redis.call('XADD', log, id, 'e', head .. (event.short or json))
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

-- Record one event on all its channels under one sequence. `event`: type, head, tail, and perhaps key (conflation), info
-- (publishing client), and if head and tail are abbreviated: name and word. Returns a list {epoch, offset, epoch,
-- offset, …} and the sequence.
local function record(tenant, event, channels)
  local sequence = redis.call('INCR', P .. 'seq:' .. tenant)
  local time, number = rfc3339(NOW), string.format('%016.0f', sequence)
  local json
  if event.name then
    event.short = event.head .. '\3' .. time .. (sequence < 1e8 and '\25' .. string.sub(number, 9) or '\4' .. number)
      .. '"' .. event.tail
    json = expand(event.short, event.name, event.word)
  else
    json = event.head .. ',"time":"' .. time .. '","sequence":"' .. number .. '"' .. event.tail
  end
  local positions = {}
  for i, channel in ipairs(channels) do
    positions[2 * i - 1], positions[2 * i] = append(tenant, channel, event, json, sequence)
  end
  return positions, sequence
end
