-- Steps and children; the tables of gateway/jobs/steps.py stand before it.
--
-- Of a job's d (prelude.lua):
--   sg  saga {s steps {name, status, undo or false} in the order they began, l the last one touched, rn run they belong
--       to, to how the job ends once all is undone (then it is no longer going forward), n tries of the present undo,
--       f fence of the last try, er original error of a job that is dead because an undo failed, dr of what it dies once
--       all is undone (as prelude.lua's dr)}
--   pa  its parent {id, number among its children, run, share of its progress that is counted already, own depth}
--   cn  children of this run {all, open}
--   cp  their progress {sum of shares, when it was last told, true if it has grown since}
--   cw  which are waited for {left, of {number: true}, ff fail fast, till}
-- A hash `saga:<tenant>:<id>` holds what is too large for d, of the newest run: p<n> result and g<n> input for the undo
-- of step n; k:<name> number of a child, c<n> the child: its id while it is open, then {id, status, result, apart,
-- error}; w<n> until when the n-th gather waits; swept, how many children have been cancelled. Set `abandoned`:
-- '<tenant> <id>' of jobs whose open children are to be cancelled.

local function saga_key(tenant, id) return P .. 'saga:' .. tenant .. ':' .. id end

-- Members of the job's JSON.
function saga_json(j)
  local steps = {}
  for i, step in ipairs(j.sg.s) do steps[i] = '{"name":"' .. step[1] .. '","status":"' .. step[2] .. '"}' end
  return ',"steps":[' .. table.concat(steps, ',') .. '],"step":"' .. j.sg.s[j.sg.l][1] .. '"'
    .. (j.sg.to and not TERMINAL[j.st] and ',"ending":"' .. j.sg.to .. '"' or '')
end

local function left_to_undo(j)
  if not j.sg then return false end
  for _, step in ipairs(j.sg.s) do
    if step[3] and TO_UNDO[step[2]] then return true end
  end
  return false
end

-- Whether the job only has to be undone.
local function turned(j) return j.sg ~= nil and j.sg.to ~= nil end

-- From now on the job is undone, to end as `to`. The caller takes it to a worker.
local function turn(j, to, death)
  j.dr = death or j.dr
  j.sg.to, j.sg.n, j.sg.f, j.sg.dr, j.cr = to, 0, nil, j.dr, 0
  enter(j, 'compensating')
end

-- End a job no worker holds: at once, or by way of a worker that undoes its steps. `death`: see `enter`.
local function finish(j, to, death)
  if not left_to_undo(j) then return enter(j, to, death) end
  turn(j, to, death)
  retry_at(j, NOW, j.at + 1)
end

-- An undo has failed for good: the job is dead with this error, and keeps the original one for when it goes on.
local function give_up_undo(j, error)
  j.sg.er, j.er = j.er or 'null', error
  for i = #j.sg.s, 1, -1 do
    if j.sg.s[i][2] == 'undoing' then j.sg.s[i][2], j.sg.l = 'undo-failed', i end
  end
end

-- The worker that undid it was lost.
local function undo_lost(j)
  local error = '{"type":"WorkerLost","message":"the worker was lost while it undid the job","attempt":' .. j.at
    .. ',"retryable":true}'
  end_attempt(j, error)
  if j.cr < CRASH_LIMIT then return retry_at(j, NOW + 1000 * (2 ^ (j.cr - 1) - 1), j.at + 1) end
  j.fe = j.fe + 1
  give_up_undo(j, '{"type":"CompensationFailed","message":"the worker was lost ' .. j.cr
    .. ' times while it undid the step ' .. j.sg.s[j.sg.l][1] .. '","attempt":' .. j.at .. ',"retryable":true}')
  enter(j, 'failed', known_death('undo'))
end

local function cancel_job(j)
  if TERMINAL[j.st] or j.st == 'cancelling' or turned(j) then return end
  if HELD[j.st] then enter(j, 'cancelling') else finish(j, 'cancelled') end
  save_job(j)
end

-- Whether the job may be published: a parent not before its children have ended, or its patience.
local function ready(j)
  return TO_PUBLISH[j.st] and not (j.st == 'waiting' and j.cw and j.cw.left > 0 and NOW < j.cw.till)
end

-- Whether a message of its attempt is of use. Not of a job that was put back, which keeps its attempt: that has given
-- back its slot, and may have to wait, until it is published again.
local function expected(j) return j.st == 'queued' or ready(j) and not j.pb end

-- A parent's progress: every child is one, and what it has done of it counts.
local function set_progress(j)
  local done = math.floor(j.cp[1] * 1000 + 0.5) / 1000
  j.cp[2], j.cp[3] = NOW, nil
  j.pg = string.format('{"done":%.10g,"total":%d,"fraction":%.10g,"message":null}', done, j.cn[1],
    math.floor(done / j.cn[1] * 1000 + 0.5) / 1000)
end

-- The parent a job of this run may still tell something, or nil.
local function parent_of(j)
  local parent = load_job(j.tenant, j.pa[1])
  return parent and parent.cn and parent.rn == j.pa[3] and not TERMINAL[parent.st] and parent or nil
end

local share

local function tell_progress(parent)
  set_progress(parent)
  emit(parent, 'job.progress')
  if parent.pa then share(parent) end
end

-- Count a child's new share, and tell it: at once, or when the last time is long enough ago.
local function add_share(parent, j, part, force)
  parent.cp[1] = parent.cp[1] + part - j.pa[4]
  j.pa[4] = part
  if parent.st ~= 'waiting' then return end
  if force or NOW - parent.cp[2] >= CHILD_PROGRESS_EVERY then return tell_progress(parent) end
  if parent.cp[3] or ready(parent) then return end
  parent.cp[3] = true
  due_at(parent, math.min(parent.cp[2] + CHILD_PROGRESS_EVERY, parent.cw.till))
end

-- A waiting parent came up in the due set before its time: to tell what it has kept back.
local function still_waiting(j)
  if j.cp[3] then
    tell_progress(j)
    save_job(j)
  end
  due_at(j, j.cw.till)
end

-- A child has reported progress: its parent has got on too. The fraction is ours, written by progress_json. The caller
-- saves the child.
function share(j)
  local part = tonumber(string.match(j.pg or '', '^{"done":[^,]+,"total":[^,]+,"fraction":([^,]+),'))
  if not part or math.abs(part - j.pa[4]) < 0.01 then return end
  local parent = parent_of(j)
  if not parent then return end
  add_share(parent, j, part, false)
  save_job(parent)
end

-- A child has ended: its outcome is the parent's, who goes on if it was the last one waited for.
local function child_ended(j)
  local parent = parent_of(j)
  if not parent then return end
  local number, wait = j.pa[2], parent.cw
  redis.call('HSET', saga_key(j.tenant, parent.id), 'c' .. number,
    cmsgpack.pack({j.id, j.st, j.rs or false, j.ru or false, j.er or false}))
  parent.cn[2] = parent.cn[2] - 1
  local awaited = parent.st == 'waiting' and wait.left > 0 and wait.of[number]
  if awaited then
    wait.of[number], wait.left = nil, wait.left - 1
    if wait.ff and j.st ~= 'succeeded' then wait.left = 0 end
    if wait.left == 0 then due_at(parent, NOW) end
  end
  add_share(parent, j, 1, awaited and wait.left == 0)
  save_job(parent)
end

-- A job that has a parent or children has entered a state.
function family(j)
  if j.cn and j.cn[2] > 0 and ABANDONS[j.st] then redis.call('SADD', P .. 'abandoned', member(j)) end
  if j.pa and TERMINAL[j.st] then child_ended(j) end
end
