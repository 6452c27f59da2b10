-- After forward.lua; as head.lua, in one field per stream of a device.
-- KEYS: cursors of a device. ARGV: seq, epoch, owner epoch, milliseconds to live, stream, most streams.
local held = redis.call('HGET', KEYS[1], ARGV[5])
if not held and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[6]) then return 0 end
local now = forward(held, ARGV[1], ARGV[2], ARGV[3])
if not now then return 0 end
redis.call('HSET', KEYS[1], ARGV[5], now)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
