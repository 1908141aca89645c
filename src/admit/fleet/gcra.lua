-- One bucket of a quota that many replicas share: the generic cell rate algorithm on the server's clock.
-- KEYS[1]: the theoretical arrival time, in microseconds, with the microseconds per token and the burst that it was
-- reckoned with: a changed quota keeps the tokens that are spent. ARGV: microseconds per token, burst, tokens that are
-- wanted, and the fewest that are of use. Returns how many are granted, and the microseconds until the next one is
-- there: negative where more are there already.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local emission, want, least = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
local tolerance = emission * tonumber(ARGV[2])
local kept = redis.pcall('GET', KEYS[1])
-- Something else under our key is no arrival time: the bucket is full, and is written anew.
if type(kept) == 'table' then kept = false end
local arrival, pace, burst = string.match(kept or '', '^(%S+) (%S+) (%S+)$')
arrival = tonumber(arrival or kept or now) or now
pace, burst = tonumber(pace) or emission, tonumber(burst) or tonumber(ARGV[2])
-- Beyond what could be written: the clock went back, by itself or with a failover. It is written anew, or the caller
-- would have nothing until the clock is there again.
local stepped = arrival - now > pace * burst + 1
-- Beyond the burst: that, or the limit was lowered. In the past, or not a number: full.
local debt = (arrival - now) / pace * emission
if debt > tolerance then debt = tolerance end
if not (debt >= 0) then debt = 0 end
-- A millionth of a token is forgiven: debts are rounded up to whole microseconds.
local there = math.floor((tolerance - debt) / emission + 0.000001)
local granted = 0
if there >= least then
  granted = math.min(want, there)
  debt = math.ceil(debt + granted * emission)
end
-- What grants nothing leaves what is there: a debt beyond the burst comes to light when the quota grows again.
if granted > 0 or stepped then
  -- Lua would print fourteen digits of it.
  local text = string.format('%.0f %.17g %s', now + debt, emission, ARGV[2])
  redis.call('SET', KEYS[1], text, 'PX', math.ceil(debt / 1000) + 1)
end
return {granted, math.ceil(debt + emission - tolerance)}
