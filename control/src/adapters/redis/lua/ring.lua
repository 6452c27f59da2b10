-- KEYS: ring. ARGV: version, JSON. Returns the version that stands.
local held = redis.call('HGET', KEYS[1], 'version')
if held and tonumber(held) >= tonumber(ARGV[1]) then return tonumber(held) end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'json', ARGV[2])
return 0
