-- What submit.lua does for a child. A.parent = {id, fence of its worker, name of the child}.

-- The parent a child may be added to; or nil and the answer: {'child', id, number} that is there already under this
-- name, {'stale'}, {'cancelling'}, {'refused', why}.
local function adopting()
  local parent = held_job(A.tenant, A.parent.id, A.parent.fence)
  if not parent then return nil, {'stale'} end
  local key = saga_key(A.tenant, parent.id)
  local number = tonumber(redis.call('HGET', key, 'k:' .. A.parent.name) or nil)
  if number then
    local kept = redis.call('HGET', key, 'c' .. number)
    local id = string.sub(kept, 1, 4) == 'job_' and kept or cmsgpack.unpack(kept)[1]
    local child = load_job(A.tenant, id)
    if child and child.ty ~= A.type then
      return nil, {'refused', 'the child ' .. A.parent.name .. ' is a ' .. child.ty .. ' already'}
    end
    return nil, {'child', id, number}
  end
  if parent.st ~= 'running' then return nil, {'cancelling'} end
  if parent.cn and parent.cn[1] >= MAX_CHILDREN then
    return nil, {'refused', 'a job may have at most ' .. MAX_CHILDREN .. ' children'}
  end
  if parent.pa and parent.pa[5] >= MAX_DEPTH then
    return nil, {'refused', 'jobs may be nested ' .. MAX_DEPTH .. ' deep'}
  end
  return parent
end

-- What the child knows of it.
local function descent(parent)
  return {parent.id, parent.cn and parent.cn[1] + 1 or 1, parent.rn, 0, (parent.pa and parent.pa[5] or 0) + 1}
end

-- The parent knows the child, which has been written.
local function adopt(parent, j)
  local number, key = j.pa[2], saga_key(j.tenant, parent.id)
  redis.call('HSET', key, 'k:' .. A.parent.name, number, 'c' .. number, j.id)
  redis.call('ZADD', index_key(j.tenant, 'p:' .. parent.id), 0, j.id)
  parent.cn = parent.cn or {0, 0}
  parent.cn[1], parent.cn[2] = number, parent.cn[2] + 1
  parent.cp = parent.cp or {0, 0}
  save_job(parent)
  return {'child', j.id, number}
end
