-- Members are {owner epoch, epoch, seq (8 bytes each), message}, scored by seq. What would leave a hole begins the list anew.
-- KEYS: list. ARGV: owner epoch, epoch (8 bytes each), most messages, milliseconds to live, first seq, members …
local first, last = tonumber(ARGV[5]), tonumber(ARGV[5]) + #ARGV - 6
local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
if #newest > 0 then
  if struct.unpack('>I8', newest[1]) > struct.unpack('>I8', ARGV[1]) then return 0 end
  if newest[1]:sub(9, 16) ~= ARGV[2] or first > tonumber(newest[2]) + 1 then
    redis.call('DEL', KEYS[1])
  else
    redis.call('ZREMRANGEBYSCORE', KEYS[1], first, last)
  end
end
for i = 6, #ARGV do redis.call('ZADD', KEYS[1], first + i - 6, ARGV[i]) end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -(tonumber(ARGV[3]) + 1))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
