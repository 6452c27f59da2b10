-- After forward.lua.
-- KEYS: head. ARGV: seq, epoch, owner epoch, milliseconds to live.
local now = forward(redis.call('GET', KEYS[1]), ARGV[1], ARGV[2], ARGV[3])
if not now then return 0 end
redis.call('SET', KEYS[1], now, 'PX', ARGV[4])
return 1
