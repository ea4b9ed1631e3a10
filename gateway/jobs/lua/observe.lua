-- What another system says of jobs it runs. A: tenant, silence_ms (after which nothing more is expected), seen: a list of
-- {id, state, attempt, worker, by, progress, result, apart, error, born}, in the order in which it was told. `error` is
-- an object without its attempt and closing brace; `born` makes the job should it not be there: {source, foreign_id,
-- type, owner, pool, priority, static, input, max_attempts, traceparent, targets}. Answers the states the jobs are in
-- afterwards, '' for one that is not there.
local function bear(o)
  local b = o.born
  local j = {
    tenant = A.tenant, id = o.id, st = 'accepted', ve = 0, ty = b.type, ow = b.owner, po = b.pool, pr = b.priority,
    rn = 1, at = o.attempt or 1, ma = b.max_attempts, tm = 0, ca = NOW, tp = b.traceparent, tg = b.targets, fe = 0,
    fo = b.source, fu = b.foreign_id,
  }
  write_new(j, b.static, b.input)
  return j
end

local function error_json(j, o) return o.error and o.error .. ',"attempt":' .. j.at .. '}' end

local function queue(j)
  j.qa, j.ra = NOW, nil
  enter(j, 'queued')
end

local function start(j, o)
  if j.st ~= 'queued' then queue(j) end
  j.sa, j.wk, j.by, j.pg = NOW, o.worker, o.by, nil
  enter(j, 'running')
end

-- The attempt is over, and there will be another.
local function again(j, error)
  j.er = error
  end_attempt(j, error)
  j.at = j.at + 1
  enter(j, 'retrying')
end

local function concluded(j, type, message)
  again(j, '{"type":"' .. type .. '","message":"' .. message .. '","retryable":true,"attempt":' .. j.at .. '}')
end

local ON = {}

function ON.queued(j, o)
  if j.st == 'running' then
    -- The next attempt is there before the word that this one is retried.
    if o.attempt > j.at then j.nx = o.attempt end
  elseif j.st == 'retrying' or j.st == 'accepted' then
    j.at = math.max(j.at, o.attempt)
    queue(j)
  end
end

function ON.running(j, o)
  if j.st == 'running' then
    if j.by == o.by or not j.by then
      j.by, j.wk = o.by, o.worker   -- told twice, or concluded earlier from what came first
      return
    end
    if j.nx then
      concluded(j, 'Retried', 'it was retried')
      j.nx, j.lt = nil, true
    else
      concluded(j, 'WorkerLost', 'it was started again')
    end
  end
  if not HELD[j.st] then start(j, o) end
end

function ON.progress(j, o)
  if not HELD[j.st] then start(j, o) end
  j.pg = o.progress
  emit(j, 'job.progress')
end

function ON.requeued(j)
  if j.st ~= 'running' then return end
  end_attempt(j)
  enter(j, 'retrying')
  queue(j)
end

function ON.retrying(j, o)
  if j.lt then
    j.lt = nil   -- of the attempt before, whose end was concluded
    return
  end
  if j.st == 'retrying' or j.st == 'cancelling' then return end
  if not HELD[j.st] then start(j, o) end
  again(j, error_json(j, o))
  if j.nx then
    j.at, j.nx = math.max(j.at, j.nx), nil
    queue(j)
  end
end

local function finish(j, o, state)
  if not HELD[j.st] and state ~= 'cancelled' and state ~= 'expired' then start(j, o) end
  j.wk = j.wk or o.worker
  if not allowed(j, state) then state = 'cancelled' end   -- too late to expire
  j.er = error_json(j, o)
  if o.result and o.apart then
    j.ru = true
    redis.call('HSET', job_key(j.tenant, j.id), 'r', o.result)
  else
    j.rs = o.result
  end
  if HELD[j.st] then end_attempt(j, j.er) end
  enter(j, state)
end

function ON.succeeded(j, o) finish(j, o, 'succeeded') end
function ON.failed(j, o) finish(j, o, 'failed') end
function ON.cancelled(j, o) finish(j, o, 'cancelled') end
function ON.expired(j, o) finish(j, o, 'expired') end

local answer = {}
for i, o in ipairs(A.seen) do
  local j = load_job(A.tenant, o.id) or o.born and o.state ~= 'requeued' and bear(o)
  if j and not TERMINAL[j.st] then
    ON[o.state](j, o)
    if not TERMINAL[j.st] then redis.call('ZADD', P .. 'due', NOW + A.silence_ms, member(j)) end
    save_job(j)
  end
  answer[i] = j and j.st or ''
end
return answer
