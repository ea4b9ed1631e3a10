-- Keep the answer given under an Idempotency-Key, so that a repetition gets the same. A: tenant, key, answer.
local idem = P .. 'idem:' .. A.tenant .. ':' .. A.key
if redis.call('EXISTS', idem) == 1 then redis.call('HSET', idem, 'answer', A.answer) end
return 1
