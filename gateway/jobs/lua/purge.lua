-- Forget jobs that ended before a time. A: retention_ms, limit. Answers '<tenant> <id>' of each.
local gone = redis.call('ZRANGEBYSCORE', P .. 'ended', '-inf', NOW - A.retention_ms, 'LIMIT', 0, A.limit)
for _, entry in ipairs(gone) do
  local tenant, id = string.match(entry, '^(%S+) (%S+)$')
  local j = load_job(tenant, id)
  redis.call('ZREM', P .. 'ended', entry)
  if j then
    redis.call('DEL', job_key(tenant, id), stream_key(tenant, 'job:' .. id), meta_key(tenant, 'job:' .. id))
    redis.call('ZREM', index_key(tenant, 'all'), id)
    redis.call('ZREM', index_key(tenant, 's:' .. j.st), id)
    redis.call('ZREM', index_key(tenant, 't:' .. j.ty), id)
    if j.ow then redis.call('ZREM', index_key(tenant, 'o:' .. j.ow), id) end
  end
end
return gone
