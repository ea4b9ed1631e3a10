-- Open a ticket: A.ticket (its hash), A.proven (a cursor issued to it was shown), A.within (ms for the first
-- opening). Answers {'ok', principal}, or why not: {'unknown'} {'late'} {'used'}. One of two that open it at
-- the same moment comes second. Proof stands for an opening this server may have forgotten.
local key = P .. A.ticket
local known = redis.call('HMGET', key, 'principal', 'issued', 'opened')
if not known[1] then return {'unknown'} end
if A.proven then return {'ok', known[1]} end
if known[3] then return {'used'} end
if NOW - tonumber(known[2]) > A.within then return {'late'} end
redis.call('HSET', key, 'opened', string.format('%.0f', NOW))
return {'ok', known[1]}
