-- A user's connections stand in one field, one after the other: {length, incarnation tag (10), id length, id, …}.
-- KEYS: bucket, counts. ARGV: uid, tag and id, the whole entry, most connections, seconds to live (0: for ever).
local held = redis.call('HGET', KEYS[1], ARGV[1]) or ''
local kept, n, at, known = {}, 0, 1, false
while at <= #held do
  local size = held:byte(at)
  local entry = held:sub(at, at + size)
  if entry:sub(2, 1 + #ARGV[2]) == ARGV[2] then
    known = true
  else
    n = n + 1
    kept[n] = entry
  end
  at = at + size + 1
end
while n >= tonumber(ARGV[4]) do
  redis.call('HINCRBY', KEYS[2], kept[1]:sub(2, 11), -1)
  table.remove(kept, 1)
  n = n - 1
end
kept[n + 1] = string.char(#ARGV[3]) .. ARGV[3]
redis.call('HSET', KEYS[1], ARGV[1], table.concat(kept))
if not known then redis.call('HINCRBY', KEYS[2], ARGV[2]:sub(1, 10), 1) end
if ARGV[5] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[5]) end
return 1
