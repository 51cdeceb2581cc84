#!lua flags=no-writes
-- One reading of one shard's live generation, all of it at one position.
--
-- KEYS[1]  the generation's meta hash
-- ARGV[1]  what is asked; ARGV[2...] of whom
--
-- Answers {position, ...}, or {} where this generation is not the live one (any more): the
-- reader looks up which one is.

local meta = KEYS[1]
local root = string.sub(meta, 1, -5)
local held = redis.call('HMGET', meta, 'position', 'retired')
if not held[1] or held[1] == '' or held[2] then
  return {}
end

local function queue(key)
  local oldest = redis.call('ZRANGE', root .. 'waiting:' .. key, 0, 0, 'WITHSCORES')
  return {
    redis.call('HGET', root .. 'queues', key),
    redis.call('ZCARD', root .. 'waiting:' .. key),
    redis.call('ZCARD', root .. 'active:' .. key),
    redis.call('ZCARD', root .. 'retrying:' .. key),
    oldest[2] or '0',
  }
end

local asked = {}

function asked.position()
  return {}
end

-- ARGV[2]: job id. The pool is the fifth value of the row (hot_rows.py).
function asked.job()
  local row = redis.call('HGET', root .. 'jobs', ARGV[2])
  if not row then
    return {false, false}
  end
  local pool = cjson.decode(row)[1][5]
  return {row, redis.call('ZRANK', root .. 'order:' .. pool, ARGV[2])}
end

-- ARGV[2]: queue key.
function asked.queue()
  return {queue(ARGV[2])}
end

function asked.queues()
  local found = {}
  for _, key in ipairs(redis.call('HKEYS', root .. 'queues')) do
    found[#found + 1] = queue(key)
  end
  return {found}
end

function asked.pools()
  local found = {}
  for _, row in ipairs(redis.call('HVALS', root .. 'pools')) do
    local name = cjson.decode(row)[1]
    found[#found + 1] = {row, redis.call('ZCARD', root .. 'order:' .. name)}
  end
  return {found, redis.call('HVALS', root .. 'nodes')}
end

function asked.nodes()
  return {redis.call('HVALS', root .. 'nodes')}
end

function asked.rows()
  return {redis.call('HVALS', root .. 'jobs')}
end

-- ARGV[2]: a tenant; all of them together are the tenant ''.
function asked.loads()
  return redis.call('HMGET', root .. 'loads', '', ARGV[2])
end

-- ARGV[2]: the first minute. Answers each counter's sum from there on, and the first one held.
function asked.counts()
  local sums, names = {}, {}
  for _, minute in ipairs(redis.call('ZRANGEBYSCORE', root .. 'minutes', ARGV[2], '+inf')) do
    local counts = redis.call('HGETALL', root .. 'minute:' .. minute)
    for index = 1, #counts, 2 do
      local name = counts[index]
      if not sums[name] then
        names[#names + 1] = name
      end
      sums[name] = (sums[name] or 0) + counts[index + 1]
    end
  end
  local flat = {}
  for _, name in ipairs(names) do
    flat[#flat + 1] = name
    flat[#flat + 1] = sums[name]
  end
  return {flat, redis.call('HGET', meta, 'counted_from')}
end

return {held[1], asked[ARGV[1]]()}
