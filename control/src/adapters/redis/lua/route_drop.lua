-- Removes those of a user's connections that begin with any of the prefixes: a tag and an id, or the tag of a void incarnation.
-- KEYS: bucket, counts. ARGV: uid, prefixes …
local held = redis.call('HGET', KEYS[1], ARGV[1])
if not held then return 0 end
local kept, at, gone = {}, 1, 0
while at <= #held do
  local size = held:byte(at)
  local entry = held:sub(at, at + size)
  local hit = false
  for i = 2, #ARGV do
    if entry:sub(2, 1 + #ARGV[i]) == ARGV[i] then hit = true end
  end
  if hit then
    gone = gone + 1
    local tag = entry:sub(2, 11)
    local count = tonumber(redis.call('HGET', KEYS[2], tag) or '0')
    if count > 1 then
      redis.call('HINCRBY', KEYS[2], tag, -1)
    else
      redis.call('HDEL', KEYS[2], tag)
    end
  else
    kept[#kept + 1] = entry
  end
  at = at + size + 1
end
if #kept == 0 then
  redis.call('HDEL', KEYS[1], ARGV[1])
elseif gone > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], table.concat(kept))
end
return gone
