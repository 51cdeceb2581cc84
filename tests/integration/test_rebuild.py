"""Rebuilding and verifying the views on real PostgreSQL and Valkey, over logs in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from infra import postgres
from infra.log import Entry, MemoryPartition, read_record
from infra.postgres import Database
from infra.redis_store import RedisStore, Script
from projections import migrate as migration
from projections.audit import AuditView
from projections.hot import HotView
from projections.logs import MemoryLogs
from projections.loop import ViewOptions, ViewRunner
from projections.migrate import find_live
from projections.pipeline import START, View, ViewDiverged
from projections.rebuild import (
    RebuildFailed,
    RebuildReport,
    audit_digest,
    hot_digest,
    rebuild,
)
from projections.verify import VerifyReport, verify_views
from schemas.codec import encode
from schemas.digest import digest
from schemas.envelope import Decision
from stream_processors.domain.rows import all_jobs_digest, live_rows
from tests.valkey_server import ValkeyServer
from tests.view_log import LifeLog

OPTIONS = ViewOptions(batch_records=25, retry_for_s=1.0, breath_s=0)
FLUSH = Script("return redis.call('FLUSHALL')")
FORGE = Script(
    """
    local jobs = redis.call('KEYS', '*:jobs')[1]
    local first = redis.call('HKEYS', jobs)[1]
    return redis.call('HDEL', jobs, first)
    """
)

pytest_plugins = ["tests.audit_fixtures"]


class Killed(BaseException):
    """The process is gone: nothing of ours runs after this, the server rolls back."""


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def hot(valkey: ValkeyServer) -> Iterator[HotView]:
    store = RedisStore(valkey.url)
    store.run(FLUSH, [], [])
    store.close()
    view = HotView(valkey.url)
    yield view
    view.close()


def a_log(steps: int = 60) -> tuple[LifeLog, MemoryLogs]:
    """A life with its log, and the log as views read it."""
    life = LifeLog(21)
    life.live(steps)
    return life, MemoryLogs({0: life.partition})


def catch_up(view: View, logs: MemoryLogs) -> None:
    runner = ViewRunner(view, logs, OPTIONS, lambda: False)
    runner.open()
    runner.run_to({shard: logs.end(shard) for shard in logs.shards})


def rebuild_audit(view: AuditView, logs: MemoryLogs) -> RebuildReport:
    return rebuild(view, audit_digest, logs, OPTIONS, lambda: False)


def live_number(url: str) -> int | None:
    database = Database(url, "foldline")
    with database.transaction() as session:
        number = find_live(session)
    database.close()
    return number


def spoil(url: str, query: Any) -> None:
    """Change the live audit generation by hand."""
    database = Database(url, f"audit_g{live_number(url)}")
    with database.transaction() as session:
        assert session.execute(query) == 1
    database.close()


def test_a_rebuilt_audit_view_is_equal_to_the_old_one_and_live(audit: AuditView, url: str) -> None:
    life, logs = a_log()
    catch_up(audit, logs)
    before = audit.digest(0)
    life.live(20)
    report = rebuild_audit(audit, logs)
    assert [shard.live_agreed for shard in report.shards] == [True]
    assert live_number(url) == report.generation == 2
    state = life.life.shard.state
    position, value, _ = audit.digest(0)
    assert (position.next_offset, value) == (logs.end(0), all_jobs_digest(state))
    assert position.next_offset > before[0].next_offset


def test_a_damaged_view_is_healed_and_the_damage_is_told(audit: AuditView, url: str) -> None:
    _, logs = a_log()
    catch_up(audit, logs)
    whole = audit.digest(0)
    spoil(url, "UPDATE jobs SET priority = priority + 1 WHERE job_no = 3")
    assert audit.digest(0) != whole
    report = rebuild_audit(audit, logs)
    assert [shard.live_agreed for shard in report.shards] == [False]
    assert audit.digest(0) == whole


def test_a_view_that_was_never_written_is_built_whole(audit: AuditView) -> None:
    life, logs = a_log()
    report = rebuild_audit(audit, logs)
    assert report.shards[0].live_agreed is None
    assert audit.digest(0)[1] == all_jobs_digest(life.life.shard.state)


def test_an_empty_log_builds_nothing(audit: AuditView, url: str) -> None:
    logs = MemoryLogs({0: MemoryPartition()})
    with pytest.raises(RebuildFailed, match="no record"):
        rebuild_audit(audit, logs)
    assert live_number(url) == 1


def test_a_generation_that_is_not_the_fold_does_not_become_live(audit: AuditView, url: str) -> None:
    _, logs = a_log()
    catch_up(audit, logs)
    with pytest.raises(RebuildFailed, match="left as it is"):
        rebuild(audit, lambda state: audit_digest(state) ^ 1, logs, OPTIONS, lambda: False)
    assert live_number(url) == 1


def test_a_live_view_that_runs_ahead_meanwhile_is_caught_up_with(
    audit: AuditView, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, logs = a_log()
    catch_up(audit, logs)
    writer = AuditView(url)
    flips: list[int] = []
    flip = AuditView.flip

    def run_ahead(view: AuditView, generation: int) -> None:
        flips.append(generation)
        if len(flips) < 3:
            life.live(3)
            catch_up(writer, MemoryLogs({0: life.partition}))
        flip(view, generation)

    monkeypatch.setattr(AuditView, "flip", run_ahead)
    report = rebuild_audit(audit, logs)
    assert len(flips) == 3
    assert live_number(url) == report.generation
    assert audit.digest(0)[1] == all_jobs_digest(life.life.shard.state)
    writer.close()


def kill_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Every transaction and migration is a step; the one after so many of them never begins."""
    left = steps
    begin, apply = Database.transaction, postgres.migrate_schema

    def step() -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1

    def transaction(self: Database, **options: Any) -> Any:
        step()
        return begin(self, **options)

    def migrate_schema(*arguments: Any) -> list[str]:
        step()
        return apply(*arguments)

    monkeypatch.setattr(Database, "transaction", transaction)
    monkeypatch.setattr(migration, "migrate_schema", migrate_schema)


def test_a_rebuild_killed_at_any_step_leaves_the_live_view_alone_and_the_next_succeeds(
    audit: AuditView, url: str
) -> None:
    _, logs = a_log(steps=25)
    catch_up(audit, logs)
    whole = audit.digest(0)
    for steps in range(200):
        victim = AuditView(url)
        with pytest.MonkeyPatch.context() as patch:
            kill_after(patch, steps)
            try:
                report = rebuild_audit(victim, logs)
            except Killed:
                report = None
        victim.close()
        if report is not None:
            break
        assert live_number(url) == 1, f"killed before step {steps}"
        assert audit.digest(0) == whole
    else:
        pytest.fail("the rebuild never came to its end")
    assert steps > 10, "the steps of a rebuild were not seen"
    assert live_number(url) == report.generation
    assert audit.digest(0) == whole
    assert rebuild_audit(audit, logs).shards[0].live_agreed


def test_the_hot_view_is_rebuilt_by_the_same_way(hot: HotView) -> None:
    life, logs = a_log()
    catch_up(hot, logs)
    life.live(20)
    report = rebuild(hot, hot_digest, logs, OPTIONS, lambda: False)
    assert [shard.live_agreed for shard in report.shards] == [True]
    position, value, _ = hot.digest(0)
    assert position.next_offset == logs.end(0)
    assert value == digest(live_rows(life.life.shard.state))


def verified(audit: AuditView, hot: HotView, logs: MemoryLogs) -> VerifyReport:
    return verify_views(logs, {"audit": (audit, audit_digest), "hot": (hot, hot_digest)})


def problems(report: VerifyReport) -> str:
    return "\n".join(report.lines())


def test_whole_views_verify_wherever_each_of_them_stands(audit: AuditView, hot: HotView) -> None:
    life, logs = a_log()
    catch_up(audit, logs)
    life.live(15)
    life.land(b"junk")
    catch_up(hot, logs)
    life.live(15)
    report = verified(audit, hot, logs)
    assert report.is_ok, problems(report)
    (shard,) = report.shards
    assert shard.records == logs.end(0) - 1
    assert sum(shard.skipped.values()) == 1
    assert shard.views[0].position.next_offset < shard.views[1].position.next_offset
    assert shard.views[1].position.next_offset < shard.next_offset


def test_a_changed_row_in_postgres_is_named(audit: AuditView, hot: HotView, url: str) -> None:
    _, logs = a_log()
    catch_up(audit, logs)
    catch_up(hot, logs)
    spoil(url, "UPDATE jobs SET message = 'forged' WHERE job_no = (SELECT max(job_no) FROM jobs)")
    report = verified(audit, hot, logs)
    assert not report.is_ok
    assert "forged" in problems(report)
    assert [bool(view.problem) for view in report.shards[0].views] == [True, False]


def test_a_row_that_redis_lost_is_named(
    audit: AuditView, hot: HotView, valkey: ValkeyServer
) -> None:
    _, logs = a_log()
    catch_up(audit, logs)
    catch_up(hot, logs)
    store = RedisStore(valkey.url)
    assert store.run(FORGE, [], []) == 1
    store.close()
    report = verified(audit, hot, logs)
    assert [bool(view.problem) for view in report.shards[0].views] == [False, True]
    assert "is missing" in problems(report)


def test_a_record_that_was_changed_is_named_by_the_one_after_it(
    audit: AuditView, hot: HotView
) -> None:
    life, logs = a_log()
    catch_up(audit, logs)
    catch_up(hot, logs)
    entries = life.partition.entries
    at = len(entries) // 2
    record = read_record(entries[at].value)
    assert isinstance(record, Decision)
    entries[at] = Entry(at, encode(replace(record, events=())), entries[at].at)
    report = verified(audit, hot, logs)
    assert not report.is_ok
    assert f"record {at + 1} does not follow" in report.shards[0].problem
    with pytest.raises(ViewDiverged):
        catch_up(audit, logs)


def test_a_log_that_was_cut_short_is_seen_by_what_the_views_took_in(
    audit: AuditView, hot: HotView
) -> None:
    life, logs = a_log()
    catch_up(audit, logs)
    catch_up(hot, logs)
    del life.partition.entries[-3:]
    report = verified(audit, hot, logs)
    assert not report.is_ok
    assert all("does not reach" in view.problem for view in report.shards[0].views)


def test_empty_views_of_an_empty_log_are_as_they_should_be(audit: AuditView, hot: HotView) -> None:
    logs = MemoryLogs({0: MemoryPartition()})
    report = verified(audit, hot, logs)
    assert report.is_ok
    assert report.shards[0].views[0].position == START


def test_a_report_for_people_says_that_all_is_well(audit: AuditView, hot: HotView) -> None:
    _, logs = a_log()
    catch_up(audit, logs)
    catch_up(hot, logs)
    lines = list(verified(audit, hot, logs).lines())
    assert lines[0].startswith("shard 0: ")
    assert lines[0].endswith("whole")
    assert all(line.endswith("equal to the fold") for line in lines[1:])
