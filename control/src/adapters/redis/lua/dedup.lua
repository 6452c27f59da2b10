-- {owner epoch, epoch, seq, message id, fingerprint}, 8 bytes each.
-- KEYS: key. ARGV: value, milliseconds to live.
local held = redis.call('GETRANGE', KEYS[1], 0, 7)
if #held == 8 and struct.unpack('>I8', held) > struct.unpack('>I8', ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
