"""What the fold took in among poison stands in a real PostgreSQL and a real Valkey, to the digest."""

from __future__ import annotations

from random import Random

import pytest

from projections.audit import AuditView
from projections.hot import HotView
from projections.rebuild import audit_digest, hot_digest
from schemas.codec import encode
from tests.cluster import node
from tests.corpus.add_poison import POISON
from tests.poison_inputs import live
from tests.poison_world import PoisonShard

pytest_plugins = ["tests.audit_fixtures", "tests.hot_fixtures"]


def assert_equal(shard: PoisonShard, audit: AuditView, hot: HotView) -> None:
    assert audit.digest(0)[1] == audit_digest(shard.state)
    assert hot.digest(0)[1] == hot_digest(shard.state)


@pytest.mark.parametrize("seed", range(5))
def test_views_hold_a_life_among_poison(audit: AuditView, view: HotView, seed: int) -> None:
    shard = PoisonShard(retain_finished_s=20)
    shard.views = [audit, view]
    live(shard, Random(seed), 40)
    assert_equal(shard, audit, view)


def test_views_hold_all_poison_that_is_kept(audit: AuditView, view: HotView) -> None:
    shard = PoisonShard()
    shard.views = [audit, view]
    values = [path.read_bytes() for path in sorted(POISON.glob("*.bin"))]
    shard.take_reports(encode(node()), *values)
    shard.take_commands(*values, None)
    shard.pass_time(60)
    assert_equal(shard, audit, view)
    assert len(audit.letters(0)[1]) == len(shard.parked)
