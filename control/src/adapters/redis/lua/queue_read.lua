-- Nothing; {0, oldest seq} if it does not reach back to `after`; {1, newest seq, elements …} (newest first).
-- KEYS: list. ARGV: epoch (8 bytes), after, most elements.
local newest = redis.call('LINDEX', KEYS[1], 0)
if not newest or newest:sub(9, 16) ~= ARGV[1] then return false end
local last, after = struct.unpack('>I8', newest, 17), tonumber(ARGV[2])
if last < after then return false end
local oldest = struct.unpack('>I8', redis.call('LINDEX', KEYS[1], -1), 17)
if oldest > after + 1 then return { 0, oldest } end
local answer, count = { 1, last }, last - after
if count == 0 then return answer end
for _, element in ipairs(redis.call('LRANGE', KEYS[1], math.max(0, count - tonumber(ARGV[3])), count - 1)) do
  answer[#answer + 1] = element
end
return answer
