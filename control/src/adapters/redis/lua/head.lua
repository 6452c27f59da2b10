-- "seq epoch owner_epoch": forward only within an epoch, and never by an older owner.
-- KEYS: head. ARGV: seq, epoch, owner epoch, milliseconds to live.
local seq, owner = ARGV[1], tonumber(ARGV[3])
local held = redis.call('GET', KEYS[1])
if held then
  local held_seq, held_epoch, held_owner = held:match('^(%d+) (%w+) (%d+)$')
  if held_seq then
    if tonumber(held_owner) > owner then return 0 end
    if held_epoch == ARGV[2] and tonumber(held_seq) > tonumber(seq) then seq = held_seq end
  end
end
redis.call('SET', KEYS[1], seq .. ' ' .. ARGV[2] .. ' ' .. ARGV[3], 'PX', ARGV[4])
return 1
