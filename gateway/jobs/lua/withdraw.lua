-- Take back a job the broker refused, unless it went on meanwhile. A: tenant, id, key (of the Idempotency-Key).
-- Answers false when it is gone, else the job. The tombstone keeps a stray message from bringing it back.
local j = load_job(A.tenant, A.id)
if not j then return false end
if j.st ~= 'accepted' or j.ve ~= 1 then return job_json(j) end
redis.call('DEL', job_key(j.tenant, j.id))
redis.call('ZREM', index_key(j.tenant, 'all'), j.id)
redis.call('ZREM', index_key(j.tenant, 's:accepted'), j.id)
redis.call('ZREM', index_key(j.tenant, 't:' .. j.ty), j.id)
if j.ow then redis.call('ZREM', index_key(j.tenant, 'o:' .. j.ow), j.id) end
redis.call('ZREM', P .. 'due', member(j))
count_open(j, -1)
if j.ap then leave(j) end
if j.uk then free_unique(j) end
redis.call('SET', P .. 'gone:' .. j.tenant .. ':' .. j.id, '1', 'EX', 86400)
if A.key then redis.call('DEL', P .. 'idem:' .. A.tenant .. ':' .. A.key) end
return false
