-- One circuit breaker, alone under its tag: a dependency is the whole deployment's, whatever the tenant. A: rules,
-- token and (to report) generation, outcome, random.
-- Answers {'go' | 'probe', generation} | {'wait', ms} | {the state a report left, generation}.
local kept = redis.call('GET', P .. 'state')
local b = kept and cmsgpack.unpack(kept) or breaker_new(NOW)
local said, number
if A.outcome then
  breaker_report(b, A.rules, NOW, A.generation, A.outcome, A.random)
  said, number = b.st, b.ge
else
  said, number = breaker_admit(b, A.rules, NOW, A.token)
end
-- What nobody asks for is forgotten: an hour after its last opening could have ended.
redis.call('SET', P .. 'state', cmsgpack.pack(b), 'PX', math.ceil(2 * A.rules.longest + A.rules.window) + 3600000)
return {said, number}
