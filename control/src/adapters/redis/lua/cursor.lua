-- As head.lua, in one field per stream of a device.
-- KEYS: cursors of a device. ARGV: seq, epoch, owner epoch, milliseconds to live, stream, most streams.
local seq, owner = ARGV[1], tonumber(ARGV[3])
local held = redis.call('HGET', KEYS[1], ARGV[5])
if held then
  local held_seq, held_epoch, held_owner = held:match('^(%d+) (%w+) (%d+)$')
  if held_seq then
    if tonumber(held_owner) > owner then return 0 end
    if held_epoch == ARGV[2] and tonumber(held_seq) > tonumber(seq) then seq = held_seq end
  end
elseif redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[6]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[5], seq .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
