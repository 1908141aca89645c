-- How many replicas are alive. KEYS[1]: a sorted set of them, by when they were last heard of on the server's clock.
-- ARGV: the replica, and the seconds after which one that is not heard of is gone. Returns their number.
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], 60)
return redis.call('ZCARD', KEYS[1])
