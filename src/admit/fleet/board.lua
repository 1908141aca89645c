-- A text under a token. ARGV: the token that is known, the token and text to put in its place or nothing, the most bytes.
local kept = redis.call('GET', KEYS[1]) or ''
if #kept > tonumber(ARGV[3]) then kept = '' end
if string.sub(kept, 1, 32) ~= ARGV[1] then return {0, kept} end
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2]) end
return {1, ''}
