-- What every job script starts with; the tables of gateway/jobs/model.py and deaths.py and the prelude of the dead
-- letters stand before it.
--
-- A job is a hash `job:<tenant>:<id>`:
--   d  what changes, MessagePack, short names because there is one per job:
--      st status, ve version, ty type, ow owner, po pool, pr priority, rn run, at attempt, ma max attempts,
--      tm timeout ms, ca/qa/sa/fa created, queued, started, finished at, ra run after, ea expires at, pg progress,
--      rs result, ru result is stored apart, er error, tp traceparent, tg channels {name, size, ttl}, wk worker,
--      ap admitted: 1 holds a slot of its type's cap, 2 of its tenant's, 3 of both, 0 waits for one (slots_prelude.lua),
--      fe fence, on last operation of this fence, lf the fence it was of, ck token of the claim, cr crashes in this run,
--      pc progress entries in the log, px offset up to which progress was pruned, uk unique key, ax how often the present
--      attempt was put back without being burnt, pb the job was put back and has not been published since, so that a
--      message that is still about is none of this try, dg its group while it is among the dead letters, dr why it failed
--      last, or of what it would die now {reason, group}, sg saga, pa parent, cn children, cp their progress, cw which are
--      waited for: see saga_prelude.lua
--      of a foreign job: fo the system that runs it, fu its id there, by names the start it told of, nx the next
--      attempt it told of too early, lt the word of a retry that is still to come
--   s  what never changes, as the beginning of the job's JSON, abbreviated like its log
--   i  input   a  attempts, JSON objects, one a line, abbreviated likewise   r  result when it is stored apart
--   e  effects (once.lua)
-- uniq:<tenant>:<type>:<key> is the id of the open job that has the unique key.
-- Indexes: ix:<tenant>:{all | s:<status> | t:<type> | o:<owner> | p:<parent>} by id (ids sort by time); open {tenant:
-- count}, open:type {type: count}; due (by time) and ended (by end) and queued:<pool> (by time; not foreign ones) hold
-- '<tenant> <id>'.

local saga_json, family   -- saga_prelude.lua

local function job_key(tenant, id) return P .. 'job:' .. tenant .. ':' .. id end
local function index_key(tenant, what) return P .. 'ix:' .. tenant .. ':' .. what end
local function member(j) return j.tenant .. ' ' .. j.id end

-- What the JSON of a job repeats besides its id: the trace's id.
local function trace_of(traceparent) return string.sub(traceparent, 4, 35) end

local function load_job(tenant, id)
  local found = redis.call('HMGET', job_key(tenant, id), 'd', 's')
  if not found[1] then return nil end
  local j = cmsgpack.unpack(found[1])
  j.tenant, j.id, j.static = tenant, id, found[2]
  return j
end

-- The job if a worker holds it under this fence, else nil.
local function held_job(tenant, id, fence)
  local j = load_job(tenant, id)
  return j and j.fe == fence and HELD[j.st] and j or nil
end

-- For who looks at many jobs: one whose record is damaged (restore.lua) must not hold up the others. Answers the job, if
-- it can be read, and else whether there is something.
local function readable_job(tenant, id)
  local well, j = pcall(load_job, tenant, id)
  return well and j or nil, not well
end

local function save_job(j)
  local tenant, id, static = j.tenant, j.id, j.static
  j.tenant, j.id, j.static = nil, nil, nil
  redis.call('HSET', job_key(tenant, id), 'd', cmsgpack.pack(j))
  j.tenant, j.id, j.static = tenant, id, static
end

local function unique_key(tenant, type, unique) return P .. 'uniq:' .. tenant .. ':' .. type .. ':' .. unique end

-- The open job that has a unique key, if there is one.
local function holder(tenant, type, unique)
  local id = redis.call('GET', unique_key(tenant, type, unique))
  local other = id and load_job(tenant, id)
  return other and not TERMINAL[other.st] and other or nil
end

local function take_unique(j) redis.call('SET', unique_key(j.tenant, j.ty, j.uk), j.id) end

local function free_unique(j)
  local key = unique_key(j.tenant, j.ty, j.uk)
  if redis.call('GET', key) == j.id then redis.call('DEL', key) end
end

local function time_json(ms) return ms and '"' .. rfc3339(ms) .. '"' or 'null' end

-- The job as JSON, without input and attempts; abbreviated as the store's prelude says.
local function job_short(j)
  local open = not (j.fa or j.ra or j.ea or j.rs)
  return j.static .. '\16' .. j.st .. (j.pg and '\17' .. j.pg or '\26')
    .. (j.rn == 1 and j.at == 1 and '\18' or ',"run":' .. j.rn .. ',"attempt":' .. j.at .. ',"version":') .. j.ve
    .. '\19' .. rfc3339(j.ca) .. '\20' .. time_json(j.qa) .. '\21' .. time_json(j.sa)
    .. (open and '\27' or '\22' .. time_json(j.fa) .. (j.ra == nil and j.ea == nil and '\23'
      or ',"run_after":' .. time_json(j.ra) .. ',"expires_at":' .. time_json(j.ea) .. ',"result":') .. (j.rs or 'null'))
    .. (j.ru and ',"result_url":"/v1/jobs/\30/result","error":' .. (j.er or 'null') or j.er and '\24' .. j.er or '\29')
    .. (j.sg and saga_json(j) or '') .. '}'
end

local function job_json(j) return expand(job_short(j), j.id, trace_of(j.tp)) end

-- Keep the log's progress entries bounded: the newest stay, what they supersede goes.
local function prune_progress(j)
  j.pc = (j.pc or 0) + 1
  if j.pc <= MAX_PROGRESS then return end
  local log = stream_key(j.tenant, 'job:' .. j.id)
  for _, entry in ipairs(redis.call('XRANGE', log, ((j.px or 0) + 1) .. '-0', '+', 'COUNT', 16)) do
    j.px = entry_id(entry[1])
    if string.find(entry[2][2], '^%d+ job%.progress ') then
      redis.call('XDEL', log, entry[1])
      j.pc = j.pc - 1
      return
    end
  end
end

-- Tell everyone: a new version and its event. Only progress has a conflation key: a later one supersedes it.
local function emit(j, type)
  j.ve = j.ve + 1
  local targets = {{'job:' .. j.id, -1, 0}}
  for i, target in ipairs(j.tg) do targets[i + 1] = target end
  local progress = type == 'job.progress'
  record(j.tenant, {
    type = type,
    key = progress and j.id or nil,
    name = j.id,
    word = trace_of(j.tp),
    head = '\1' .. j.ve .. '\2' .. string.sub(type, 5)
      .. '\5' .. string.match(DATASCHEMA, '^urn:gateway:schema:job:(.*)$') .. '"',
    tail = '\6' .. string.sub(j.tp, 37) .. '\7' .. job_short(j) .. '}',
  }, targets)
  if progress then prune_progress(j) end
end

-- How many jobs of the tenant and of the type are open.
local function count_open(j, change)
  redis.call('HINCRBY', P .. 'open', j.tenant, change)
  -- Of another system's jobs there may be any number of types.
  if redis.call('HINCRBY', P .. 'open:type', j.ty, change) < 1 then redis.call('HDEL', P .. 'open:type', j.ty) end
end

-- The indexes of a job in its state.
local function index_job(j)
  redis.call('ZADD', index_key(j.tenant, 'all'), 0, j.id)
  redis.call('ZADD', index_key(j.tenant, 's:' .. j.st), 0, j.id)
  redis.call('ZADD', index_key(j.tenant, 't:' .. j.ty), 0, j.id)
  if j.ow then redis.call('ZADD', index_key(j.tenant, 'o:' .. j.ow), 0, j.id) end
end

-- Write what never changes of a new job; the caller saves the rest. `static`: JSON up to and without pool and max_attempts.
local function write_new(j, static, input)
  j.static = shorten(static .. ',"pool":"' .. j.po .. '","max_attempts":' .. j.ma, j.id, trace_of(j.tp),
    '\8\11\12\14\15')
  redis.call('HSET', job_key(j.tenant, j.id), 's', j.static, 'i', input)
  index_job(j)
  count_open(j, 1)
end

-- A log gets no more, unless the job runs again: give back the room it was made with (4 KiB, for three small events).
-- Redis copies a stream to the size it has.
local function trim(j)
  local log = stream_key(j.tenant, 'job:' .. j.id)
  redis.call('COPY', log, P .. 'copy', 'REPLACE')
  redis.call('RENAME', P .. 'copy', log)
end

-- A failed job is among the dead letters until it runs again, is discarded or forgotten.
local function die(j, death)
  j.dg, j.dr = death.group[1], death.reason
  dead_enter(j.tenant, j.id, death.reason, death.group)
end

local function undie(j)
  local there = j.dg and dead_leave(j.tenant, j.id, j.dg)
  j.dg = nil
  return there
end

-- Enter a state the table allows; the caller has checked with `allowed`. The event comes first: should it fail, which
-- no rule of ours allows, the job is where it was. `death` {reason, group} says why it failed, else j.dr does.
local function enter(j, state, death)
  local former = j.st
  j.st = state
  if TERMINAL[state] then j.fa, j.ck, j.ra, j.wk, j.lf, j.pb = NOW, nil, nil, nil, nil, nil end
  if EVENT[state] then emit(j, EVENT[state]) end
  redis.call('ZREM', index_key(j.tenant, 's:' .. former), j.id)
  redis.call('ZADD', index_key(j.tenant, 's:' .. state), 0, j.id)
  if former == 'queued' then redis.call('ZREM', P .. 'queued:' .. j.po, member(j)) end
  if state == 'queued' and not j.fo then redis.call('ZADD', P .. 'queued:' .. j.po, NOW, member(j)) end
  if former == 'failed' then undie(j) end
  if state == 'failed' and not j.fo then   -- what another system runs, nobody can put back here
    die(j, death or type(j.dr) == 'table' and j.dr or known_death('unknown'))
  elseif TERMINAL[state] then
    j.dr = nil
  end
  if TERMINAL[state] then
    redis.call('ZREM', P .. 'due', member(j))
    redis.call('ZADD', P .. 'ended', NOW, member(j))
    count_open(j, -1)
    trim(j)
    if j.uk then free_unique(j) end
  end
  if j.pa or j.cn then family(j) end
  if j.ap and (TERMINAL[state] or state == 'retrying' or state == 'waiting') then leave(j) end
end

local function allowed(j, state) return ALLOWED[j.st][state] end

-- Look at the job again at this time, or when it expires, whichever comes first.
local function due_at(j, ms)
  if j.ea and allowed(j, 'expired') then ms = math.min(ms, j.ea) end
  redis.call('ZADD', P .. 'due', ms, member(j))
end

-- How many jobs of the shard are open, those in the crowds (due.lua) too.
local function count_due() return redis.call('ZCARD', P .. 'due') + (redis.call('GET', P .. 'crowded') or 0) end

-- A queued job is looked at again after an hour, then after twice its age: should the broker have lost its message, or
-- buried it, the job is published again, and the claim drops what is one too many. (After a restart: recheck.lua.)
local AUDIT = 3600 * 1000
local function audit(j) due_at(j, NOW + math.max(AUDIT, NOW - j.qa)) end

-- Into the queue.
local function enter_queue(j)
  j.qa, j.ra = NOW, nil
  enter(j, 'queued')
  audit(j)
end

-- The queue has its message no longer, and nobody has begun: it is due again. Nobody is told, for nothing has happened.
local function unqueue(j, ms)
  redis.call('ZREM', P .. 'queued:' .. j.po, member(j))
  redis.call('ZREM', index_key(j.tenant, 's:queued'), j.id)
  redis.call('ZADD', index_key(j.tenant, 's:accepted'), 0, j.id)
  j.st = 'accepted'
  save_job(j)
  due_at(j, ms)
end

-- Put the attempt that ends now on record (the newest 50 are kept).
local function end_attempt(j, error)
  local key = job_key(j.tenant, j.id)
  local kept = redis.call('HGET', key, 'a') or ''
  local _, count = string.gsub(kept, '\n', '\n')
  if count >= 50 then kept = string.sub(kept, string.find(kept, '\n') + 1) end
  redis.call('HSET', key, 'a', kept
    .. (j.rn == 1 and j.at == 1 and '\28' or '{"run":' .. j.rn .. ',"attempt":' .. j.at .. ',"worker":')
    .. (j.wk or 'null') .. '\21' .. time_json(j.sa) .. '\22' .. time_json(NOW)
    .. ',"error":' .. (error or 'null') .. '}\n')
end

-- Give the job back to the due set for another attempt, or the same one again.
local function retry_at(j, ms, attempt)
  if attempt ~= j.at then j.ax = nil end
  j.at, j.ra, j.ck, j.pb = attempt, ms, nil, true
  j.fe = j.fe + 1   -- whoever still works on it can no longer write
  enter(j, 'retrying')
  due_at(j, ms)
end

local function expire(j)
  enter(j, 'expired')
  save_job(j)
end

-- What a worker needs to run the job, and to rebuild it should this server lose it.
local function message(j)
  local channels = {}
  for i, target in ipairs(j.tg) do channels[i] = target[1] end
  return cmsgpack.pack({
    id = j.id, tenant = j.tenant, type = j.ty, pool = j.po, priority = j.pr, run = j.rn, attempt = j.at,
    input = redis.call('HGET', job_key(j.tenant, j.id), 'i'), traceparent = j.tp, created_at = j.ca,
    owner = j.ow, channels = channels, max_attempts = j.ma, timeout_ms = j.tm, unique = j.uk,
  })
end
