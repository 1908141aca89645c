-- One bucket of a quota that many replicas share: the generic cell rate algorithm on the server's clock.
-- KEYS[1]: the theoretical arrival time, in microseconds, and the microseconds per token that it was reckoned with: a
-- changed quota keeps the tokens that are spent. ARGV: microseconds per token, burst, tokens that are
-- wanted, and the fewest that are of use. Returns how many are granted, and the microseconds until the next one is
-- there: negative where more are there already.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local emission, want, least = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
local tolerance = emission * tonumber(ARGV[2])
local arrival = redis.pcall('GET', KEYS[1])
-- Something else under our key is no arrival time: the bucket is full, and is written anew.
if type(arrival) == 'table' then arrival = false end
local time, pace = string.match(arrival or '', '^(%S+) (%S+)$')
pace = tonumber(pace) or emission
arrival = tonumber(time or arrival or now) or now
-- Beyond the burst: the clock went back with a failover, or the limit was lowered. In the past, or not a number: full.
local debt = (arrival - now) / pace * emission
if debt > tolerance then debt = tolerance end
if not (debt >= 0) then debt = 0 end
-- A millionth of a token is forgiven: debts are rounded up to whole microseconds.
local there = math.floor((tolerance - debt) / emission + 0.000001)
local granted = 0
if there >= least then
  granted = math.min(want, there)
  debt = math.ceil(debt + granted * emission)
  -- Lua would print fourteen digits of it.
  redis.call('SET', KEYS[1], string.format('%.0f %.17g', now + debt, emission), 'PX', math.ceil(debt / 1000) + 1)
end
return {granted, math.ceil(debt + emission - tolerance)}
