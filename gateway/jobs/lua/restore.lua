-- Write a job as its log tells it. A: tenant, id, offset (of the log's newest entry that was folded), version (of the job
-- that was read; -1 when there was none, -2 when it could not be read), fields (of d), static, attempts, targets,
-- timeout_ms, death (of what it failed; nil when nobody told). Answers 'restored' | 'moved' (it is no longer as it was
-- read) | 'no-input' (open, and its input is lost).
local key = job_key(A.tenant, A.id)
local well, old = pcall(load_job, A.tenant, A.id)
if not well or (old and (type(old) ~= 'table' or not old.ve)) then old = nil end
local known = old and old.ve or redis.call('HEXISTS', key, 'd') == 1 and -2 or -1
local told = tonumber(redis.call('HGET', meta_key(A.tenant, 'job:' .. A.id), 'offset') or 0)
if known ~= A.version or told ~= A.offset then return 'moved' end
local open = not TERMINAL[A.fields.st]
if open and redis.call('HEXISTS', key, 'i') == 0 then return 'no-input' end

-- What the log does not know is kept; where it is lost, no fence handed out is as high as the version.
local j = old or {tenant = A.tenant, id = A.id, fe = A.fields.ve + 1, tg = A.targets, tm = A.timeout_ms}
for _, name in ipairs({'qa', 'sa', 'fa', 'ra', 'ea', 'pg', 'rs', 'ru', 'er', 'ow'}) do j[name] = nil end
local was, was_open = old and old.st, old and not TERMINAL[old.st]
for name, value in pairs(A.fields) do j[name] = value end
redis.call('HSET', key, 's', A.static)
redis.call('HSETNX', key, 'i', 'null')
redis.call('HSETNX', key, 'a', A.attempts)
j.static = A.static

-- What it holds of the caps is where it always was; none of it is for one that ended or whose next attempt is to come.
local held = redis.call('SISMEMBER', P .. 'adm:t:' .. j.ty, member(j))
  + 2 * redis.call('SISMEMBER', P .. 'adm:n:' .. j.tenant, j.id)
j.ap = redis.call('ZSCORE', lane_key(j.tenant, j.ty), j.id) and 0 or held > 0 and held or nil
j.pb = (j.st == 'retrying' or j.st == 'waiting') or nil
if j.ap and (not open or j.pb or j.ap == 0 and HELD[j.st]) then leave(j) end
if not open and j.uk then free_unique(j) end
if j.st ~= 'failed' or j.fo then
  undie(j)
elseif was ~= 'failed' then   -- else it is a dead letter still, or somebody discarded it
  local group = A.death.group[1]
  if redis.call('ZSCORE', dead_key(j.tenant), j.id .. ' ' .. group) then
    j.dg, j.dr = group, A.death.reason
  else
    die(j, A.death)
  end
end
save_job(j)

for state in pairs(ALLOWED) do redis.call('ZREM', index_key(j.tenant, 's:' .. state), j.id) end
index_job(j)
if old and was_open ~= open then count_open(j, open and 1 or -1) end
redis.call('ZREM', P .. 'queued:' .. j.po, member(j))
if open then
  redis.call('ZREM', P .. 'ended', member(j))
  if j.st == 'queued' and not j.fo then redis.call('ZADD', P .. 'queued:' .. j.po, NOW, member(j)) end
  -- Whoever looks at the due set decides: a lost lease is recovered, a message published again.
  redis.call('ZADD', P .. 'due', j.ra or NOW, member(j))
else
  redis.call('ZREM', P .. 'due', member(j))
  redis.call('ZADD', P .. 'ended', j.fa, member(j))
end
return 'restored'
