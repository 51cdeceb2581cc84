#!lua
-- Makes one generation the live one, for one or more shards at once.
--
-- KEYS[1]  the registry
-- ARGV[1]  the generation
-- ARGV[2]  'keep': the old one stays for rollback, and the one kept before it is doomed;
--          'drop': the old one is doomed
-- ARGV[3…] pairs: a shard, and the generation that must be live there ('' for none, '*' for any)
--
-- Answers 1, or 0 where another one is live than was expected: then nothing was changed.

local registry, new, keep = KEYS[1], ARGV[1], ARGV[2] == 'keep'

for index = 3, #ARGV, 2 do
  local live = redis.call('HGET', registry, 'live:' .. ARGV[index]) or ''
  if ARGV[index + 1] ~= '*' and ARGV[index + 1] ~= live then
    return 0
  end
end

local function doom(generation, shard)
  redis.call('HSET', registry, 'doomed:' .. generation .. ':' .. shard, '1')
end

for index = 3, #ARGV, 2 do
  local shard = ARGV[index]
  local old = redis.call('HGET', registry, 'live:' .. shard)
  if old and old ~= new then
    local previous = redis.call('HGET', registry, 'previous:' .. shard)
    if keep then
      if previous and previous ~= new then
        doom(previous, shard)
      end
      redis.call('HSET', registry, 'previous:' .. shard, old)
    else
      doom(old, shard)
    end
  end
  redis.call('HSET', registry, 'live:' .. shard, new)
  redis.call('HDEL', registry, 'doomed:' .. new .. ':' .. shard, 'building:' .. new .. ':' .. shard)
end
return 1
