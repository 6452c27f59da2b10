-- The plain name of the gateway that a user was last seen at goes only if it still says so.
-- KEYS: instance. ARGV: gateway.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
