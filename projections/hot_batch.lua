#!lua
-- One batch of one shard into one generation of the hot view: all of it or nothing.
--
-- KEYS[1]  the generation's meta hash: `value` (the log's chain value that the data stands for),
--          `position` (the same as JSON, for readers), `retired` (another generation is live)
-- ARGV[1]  the chain value that this batch follows; '' for a generation with nothing in it
-- ARGV[2]  the chain value after it
-- ARGV[3]  the position after it, as JSON; '' while a new generation is being filled
-- ARGV[4]  the net effect (hot_net.py), MessagePack without binary strings
-- ARGV[5]  for a generation with nothing in it: from when on its counters count (UTC microseconds)
--
-- Answers {word, position}: stored; repeated (this very batch was stored before); retired;
-- elsewhere (the data stands at another place of the log: a gap, or nothing is there).
-- Numbers stay below 2^53, where a Lua number is exact; chain values are never numbers.

local meta = KEYS[1]
local root = string.sub(meta, 1, -5)
local before, after, position, packed = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local held = redis.call('HMGET', meta, 'value', 'position', 'retired')
local value = held[1] or ''
if held[3] then
  return {'retired', held[2] or ''}
end
if value == after and after ~= before then
  return {'repeated', held[2] or ''}
end
if value ~= before then
  return {'elsewhere', held[2] or ''}
end

local effect = cmsgpack.unpack(packed)
-- `unpack` pushes its list on the Lua stack, which is bounded: an even number at a time.
local MOST = 4000
local function call(command, key, list)
  for first = 1, #list, MOST do
    redis.call(command, key, unpack(list, first, math.min(first + MOST - 1, #list)))
  end
end

-- From here to the end the generation has no position: should the server die in between without
-- undoing the script, the next batch finds nothing and the view is written anew.
redis.call('HDEL', meta, 'value', 'position')
if before == '' then
  redis.call('HSET', meta, 'counted_from', ARGV[5])
end

call('HSET', root .. 'jobs', effect.jobs)
call('HDEL', root .. 'jobs', effect.ended)
for _, group in ipairs(effect.groups) do
  local order = root .. 'order:' .. group.pool
  call('ZREM', order, group.ids)
  call('ZADD', order, group.order)
  for _, kind in ipairs({'waiting', 'active', 'retrying'}) do
    local key = root .. kind .. ':' .. group.queue
    call('ZREM', key, group.ids)
    call('ZADD', key, group[kind])
  end
end
if effect.all_nodes then
  redis.call('DEL', root .. 'nodes')
end
call('HDEL', root .. 'nodes', effect.lost)
call('HSET', root .. 'nodes', effect.nodes)
call('HSET', root .. 'queues', effect.queues)
call('HSET', root .. 'pools', effect.pools)
call('HDEL', root .. 'loads', effect.unloaded)
call('HSET', root .. 'loads', effect.loads)

local KEPT_MINUTES = 1440
for _, minute in ipairs(effect.minutes) do
  local key = root .. 'minute:' .. minute.minute
  for index = 1, #minute.counts, 2 do
    redis.call('HINCRBY', key, minute.counts[index], minute.counts[index + 1])
  end
  redis.call('ZADD', root .. 'minutes', minute.minute, minute.minute)
end
local newest = redis.call('ZRANGE', root .. 'minutes', -1, -1)[1]
if newest then
  local old = redis.call('ZRANGEBYSCORE', root .. 'minutes', '-inf', newest - KEPT_MINUTES - 1)
  for _, minute in ipairs(old) do
    redis.call('DEL', root .. 'minute:' .. minute)
    redis.call('ZREM', root .. 'minutes', minute)
  end
end

redis.call('HSET', meta, 'value', after, 'position', position)
return {'stored', position}
