local prefix = ARGV[3]
local first = prefix == '' and '-' or '[' .. prefix
-- Keys are text, in which there is no byte 255.
local last = prefix == '' and '+' or '(' .. prefix .. '\255'
local entries = {}
for _, key in ipairs(redis.call('ZRANGEBYLEX', ORDER, first, last)) do
  local found = read(key)
  if found then
    entries[#entries + 1] = {key, found.version, found.value}
  end
end
return {redis.call('GET', CLOCK) or '0', entries}
