local ENTRIES, ORDER, CLOCK = KEYS[1], KEYS[2], KEYS[3]
local SESSION, CHANNEL = ARGV[1], ARGV[2]

-- Microseconds of the server's clock, so that versions go on growing after a flush. Below 2^53, so a number holds them.
local function next_version()
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local last = tonumber(redis.call('GET', CLOCK) or 0)
  local version = string.format('%.0f', math.max(now, last + 1))
  redis.call('SET', CLOCK, version)
  return version
end

local known = {}
local function lives(session)
  if session == '' then return true end
  if known[session] == nil then
    known[session] = redis.call('EXISTS', SESSION .. session) == 1
  end
  return known[session]
end

local function write(key, session, value)
  local version = next_version()
  redis.call('HSET', ENTRIES, key, version .. ' ' .. session .. ' ' .. value)
  redis.call('ZADD', ORDER, 0, key)
  redis.call('PUBLISH', CHANNEL, 'put ' .. version .. ' ' .. key .. '\n' .. value)
  return version
end

local function remove(key)
  redis.call('HDEL', ENTRIES, key)
  redis.call('ZREM', ORDER, key)
  redis.call('PUBLISH', CHANNEL, 'gone ' .. next_version() .. ' ' .. key .. '\n')
end

local function parse(key, stored)
  local version, session, value = string.match(stored, '^(%d+) (%x*) (.*)$')
  if lives(session) then
    return {version = version, session = session, value = value}
  end
  remove(key)
  return false
end

local function read(key)
  local stored = redis.call('HGET', ENTRIES, key)
  return stored and parse(key, stored)
end

-- Keys of dead sessions that nobody lists would stay for ever.
local function sweep()
  local all = redis.call('HGETALL', ENTRIES)
  for at = 1, #all, 2 do
    parse(all[at], all[at + 1])
  end
end
