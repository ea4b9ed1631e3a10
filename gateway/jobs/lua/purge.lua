-- Forget jobs that ended before a time, in two steps, so that what is kept outside can go first: without A.entries
-- answers up to A.limit candidates '<tenant> <id>'; with it forgets those that are still so. A: retention_ms, limit,
-- entries.
local before = NOW - A.retention_ms
if not A.entries then return redis.call('ZRANGEBYSCORE', P .. 'ended', '-inf', before, 'LIMIT', 0, A.limit) end
for _, entry in ipairs(A.entries) do
  local tenant, id = string.match(entry, '^(%S+) (%S+)$')
  local ended = tonumber(redis.call('ZSCORE', P .. 'ended', entry) or math.huge)
  if ended <= before then
    local j = readable_job(tenant, id)
    redis.call('ZREM', P .. 'ended', entry)
    redis.call('DEL', job_key(tenant, id), saga_key(tenant, id), index_key(tenant, 'p:' .. id),
      stream_key(tenant, 'job:' .. id), meta_key(tenant, 'job:' .. id))
    redis.call('ZREM', index_key(tenant, 'all'), id)
    if j then
      undie(j)
      redis.call('ZREM', index_key(tenant, 's:' .. j.st), id)
      redis.call('ZREM', index_key(tenant, 't:' .. j.ty), id)
      if j.ow then redis.call('ZREM', index_key(tenant, 'o:' .. j.ow), id) end
      if j.pa then redis.call('ZREM', index_key(tenant, 'p:' .. j.pa[1]), id) end
      if j.fo then redis.call('SREM', P .. 'revoke:' .. j.fo, member(j) .. ' ' .. j.fu) end
    else   -- lists take it out of the other indexes
      for state in pairs(ALLOWED) do redis.call('ZREM', index_key(tenant, 's:' .. state), id) end
    end
  end
end
return {}
