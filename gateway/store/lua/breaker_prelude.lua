-- The arithmetic of a circuit breaker. Pure: who calls it keeps `b`, and gives the time (ms) and a random number in [0, 1).
--
--   closed ──(so many failures in a row, or their rate in the window)──► open ──(its time is over)──► half: one probe
--      ▲                                                                   ▲────── the probe failed ──────┤
--      └──────────────────────────── the probe went well ─────────────────────────────────────────────────┘
--
-- b  st state, ge generation (raised by every change: a late outcome of an older one changes nothing), fr failures in a
--    row, op openings in a row, un open until, pt token of the probe, pu end of its lease, ws begin of the window,
--    a attempts and f failures in it, pa and pf in the window before
-- r  failures (in a row), rate, minimum (attempts in the window before the rate counts), window, cool_down (doubled by
--    every further opening), longest, probe (lease); times in ms

local function breaker_new(now)
  return {st = 'closed', ge = 1, fr = 0, op = 0, ws = now, a = 0, f = 0, pa = 0, pf = 0}
end

local function breaker_change(b, state)
  b.st, b.ge, b.pt, b.pu, b.un = state, b.ge + 1, nil, nil, nil
end

-- Ask to pass. Answers 'go' or 'probe' and the generation to report under, or 'wait' and for how long.
local function breaker_admit(b, r, now, token)
  if b.st == 'closed' then return 'go', b.ge end
  if b.st == 'open' and now < b.un then return 'wait', b.un - now end
  if b.st == 'half' then
    if b.pt == token then return 'probe', b.ge end
    if now < b.pu then return 'wait', b.pu - now end
  end
  breaker_change(b, 'half')
  b.pt, b.pu = token, now + r.probe
  return 'probe', b.ge
end

-- Two windows stand for a sliding one: of the former counts what still overlaps.
local function breaker_slide(b, r, now)
  local gone = now - b.ws
  if gone >= 2 * r.window then
    b.ws, b.a, b.f, b.pa, b.pf = now, 0, 0, 0, 0
  elseif gone >= r.window then
    b.ws, b.a, b.f, b.pa, b.pf = b.ws + r.window, 0, 0, b.a, b.f
  end
  return 1 - (now - b.ws) / r.window
end

local function breaker_open(b, r, now, random)
  breaker_change(b, 'open')
  b.op = b.op + 1
  b.un = now + math.floor(math.min(r.longest, r.cool_down * 2 ^ math.min(b.op - 1, 40)) * (1 + random / 10))
end

-- Report what came of a passage: 'ok', 'failed', or 'void' (nothing was learned).
local function breaker_report(b, r, now, generation, outcome, random)
  if generation ~= b.ge then return end
  if b.st == 'half' then
    if outcome == 'failed' then return breaker_open(b, r, now, random) end
    breaker_change(b, outcome == 'ok' and 'closed' or 'open')
    if outcome == 'ok' then
      b.fr, b.op, b.ws, b.a, b.f, b.pa, b.pf = 0, 0, now, 0, 0, 0, 0
    else
      b.un = now   -- the next one is the probe
    end
  elseif outcome ~= 'void' then
    local overlap = breaker_slide(b, r, now)
    local failed = outcome == 'failed' and 1 or 0
    b.a, b.f, b.fr = b.a + 1, b.f + failed, failed * (b.fr + 1)
    local attempts, failures = b.a + b.pa * overlap, b.f + b.pf * overlap
    if b.fr >= r.failures or (attempts >= r.minimum and failures >= r.rate * attempts) then
      breaker_open(b, r, now, random)
    end
  end
end
