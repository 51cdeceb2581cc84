"""What the hot view's tests ask of a server beyond its port, and a shard that is busy."""

from __future__ import annotations

from infra.redis_store import RedisStore, Script
from projections.hot_keys import REGISTRY, root
from tests.cluster import node
from tests.view_shard import ViewShard, job

FLUSH = Script("return redis.call('FLUSHALL')")
DUMP = Script(
    """
    local found = {}
    for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
      local kind = redis.call('TYPE', key).ok
      local short = string.sub(key, #ARGV[1] + 1)
      if kind == 'hash' and not string.find(short, '^m') then
        local values = redis.call('HGETALL', key)
        for index = 1, #values, 2 do
          found[#found + 1] = short .. ' ' .. values[index] .. ' ' .. values[index + 1]
        end
      elseif kind == 'zset' and not string.find(short, '^m') then
        local members = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
        for index = 1, #members, 2 do
          found[#found + 1] = short .. ' ' .. members[index] .. ' ' .. members[index + 1]
        end
      end
    end
    table.sort(found)
    return found
    """
)


def live(store: RedisStore) -> int:
    return int(store.get_fields(REGISTRY)["live:0"])


def held(store: RedisStore, generation: int) -> list[bytes]:
    found: list[bytes] = store.run(DUMP, [], [root(0, generation)])
    return found


def busy(jobs: int = 3) -> ViewShard:
    shard = ViewShard()
    shard.report(node("n1", gpus=("A100",)))
    shard.command(*(job(f"j{number}", cpu_milli=4000) for number in range(jobs)))
    return shard
