local session, key, value = ARGV[3], ARGV[4], ARGV[5]
if not lives(session) then return {'over', '0', ''} end
local found = read(key)
if found and found.session ~= session then return {'theirs', found.version, found.value} end
if found and found.value == value then return {'ours', found.version, ''} end
return {'ours', write(key, session, value), ''}
