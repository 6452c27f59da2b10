-- The newest is at the left; always one run without a hole or a twin. Elements as in hot_put.lua.
-- KEYS: list. ARGV: owner epoch, epoch (8 bytes each), most elements, milliseconds to live, first seq, elements …
local first, skip = tonumber(ARGV[5]), 0
local newest = redis.call('LINDEX', KEYS[1], 0)
if newest then
  if struct.unpack('>I8', newest) > struct.unpack('>I8', ARGV[1]) then return 0 end
  local seq = struct.unpack('>I8', newest, 17)
  if newest:sub(9, 16) ~= ARGV[2] or first > seq + 1 then
    redis.call('DEL', KEYS[1])
  else
    skip = seq - first + 1
  end
end
for i = 6 + skip, #ARGV do redis.call('LPUSH', KEYS[1], ARGV[i]) end
redis.call('LTRIM', KEYS[1], 0, tonumber(ARGV[3]) - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
