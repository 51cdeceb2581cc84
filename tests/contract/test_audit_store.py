"""The audit view on a real PostgreSQL: one writer, whole batches, months, readers, restarts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import pytest

from infra.postgres import Database, DatabaseUnavailable, ReadPool, micros
from projections.audit import AuditView, month_of
from projections.pipeline import (
    StaleWriter,
    ViewDiverged,
    ViewUnavailable,
    position_of,
)
from schemas.ids import format_job_id
from schemas.terms import FailureClass, TaskState
from stream_processors.domain.rows import all_jobs_digest, job_row
from tests.cluster import cancel, node, put_queue, uid
from tests.postgres_server import PostgresServer
from tests.tcp_proxy import HOST, TcpProxy
from tests.view_shard import Life, ViewShard, job

pytest_plugins = ["tests.audit_fixtures"]
AWAY_S = 16.0
"""An exponential backoff would look again 15 seconds after that."""
BACK_WITHIN_S = 6.0


@pytest.fixture
def view(audit: AuditView) -> AuditView:
    return audit


@pytest.fixture
def reads(url: str) -> Iterator[Database]:
    """The schema that readers see."""
    database = Database(url, "foldline")
    yield database
    database.close()


def one(reads: Database, query: Any, *values: Any) -> tuple[Any, ...]:
    with reads.transaction() as session:
        (row,) = session.fetch(query, values)
    return row


def ran(shard: ViewShard, key: str = "a", failure: FailureClass = FailureClass.NONE) -> None:
    shard.command(job(key, max_retries=0))
    shard.run(key, failure)


@pytest.mark.parametrize("seed", range(3))
def test_the_view_of_any_life_is_the_fold_whatever_the_batches(view: AuditView, seed: int) -> None:
    life = Life(seed)
    for _ in range(150):
        life.step()
        if life.shard.records and life.chance.random() < 0.2:
            view.store(life.shard.batch())
    life.shard.wait(1)
    view.store(life.shard.batch())
    state = life.shard.state
    position, digest, jobs = view.digest(0)
    assert position == position_of(life.shard.chain)
    assert digest == all_jobs_digest(state)
    assert jobs == len(state.jobs) + state.forgotten
    held = {row.job_no: row for row in view.rows(0)[1]}
    assert {no: held[no] for no in state.jobs} == {
        no: job_row(0, some) for no, some in state.jobs.items()
    }


def test_an_empty_view_has_no_position(view: AuditView) -> None:
    assert view.position(0) is None


def test_a_batch_that_starts_elsewhere_changes_nothing(view: AuditView, reads: Database) -> None:
    shard = ViewShard()
    shard.command(job("a"))
    first = shard.batch()
    view.store(first)
    before = view.digest(0)
    with pytest.raises(StaleWriter):
        view.store(first)
    shard.command(job("b"))
    second = shard.batch()
    with pytest.raises(StaleWriter):
        view.store(replace(second, start=replace(second.start, value=b"x" * 32)))
    assert view.digest(0) == before
    assert one(reads, "SELECT count(*) FROM events WHERE kind = 'JobsSubmitted'") == (1,)
    view.store(second)
    assert view.digest(0)[2] == 2


def test_two_writers_are_one_too_many_and_the_second_is_turned_away(
    view: AuditView, url: str
) -> None:
    other = AuditView(url)
    shard = ViewShard()
    shard.command(job("a"))
    batch = shard.batch()
    view.store(batch)
    with pytest.raises(StaleWriter):
        other.store(batch)
    other.close()
    assert view.digest(0)[2] == 1


def test_shards_stand_each_where_it_stands(view: AuditView) -> None:
    shard = ViewShard()
    shard.command(job("a"))
    batch = shard.batch()
    view.store(batch)
    assert view.position(1) is None
    assert view.position(0) == batch.stop


def test_a_jobs_history_can_be_read(view: AuditView, reads: Database) -> None:
    shard = ViewShard()
    shard.report(node("n1"))
    ran(shard, "a", FailureClass.IMAGE_ERROR)
    view.store(shard.batch())
    row = one(
        reads,
        "SELECT job_type, name, state, failure, message, submitted_at, command_offset, extras"
        " FROM jobs WHERE job_id = %s",
        uid("a"),
    )
    assert row[:5] == ("training", "job a", "failed", "image_error", "it broke")
    assert micros(row[5]) == shard.job("a").submitted_at
    assert row[6:] == (0, [])
    attempt = one(reads, "SELECT attempt, failure, ended_at >= started_at FROM attempts")
    assert attempt == (1, "image_error", True)
    task = one(reads, "SELECT task, node, incarnation, devices, exit_code, message FROM tasks")
    assert task == (0, "n1", 1, [], 1, "it broke")
    with reads.transaction() as session:
        kinds = session.fetch(
            "SELECT kind FROM events WHERE job_no = 1 ORDER BY log_offset, row_no"
        )
    assert [kind for (kind,) in kinds] == [
        "JobsSubmitted",
        "TasksPlaced",
        "TasksStarted",
        "JobsStarted",
        "TasksEnded",
        "JobsFailed",
    ]


def test_what_a_lost_node_held_has_ended_with_it(view: AuditView, reads: Database) -> None:
    shard = ViewShard()
    shard.report(node("n1"))
    shard.command(job("a"), job("b"))
    shard.says("a", TaskState.STARTED)
    shard.says("a", TaskState.ENDED)
    view.store(shard.batch())
    shard.lose("n1")
    view.store(shard.batch())
    with reads.transaction() as session:
        found = session.fetch("SELECT failure, message, ended_at FROM tasks ORDER BY job_no")
        assert found[0][:2] == ("none", "")
        assert found[1][0] == "node_lost"
        assert found[1][1].startswith("node n1 was lost")
        lost = session.fetch("SELECT lost_at, lost_reason <> '' FROM nodes")
    assert found[1][2] == lost[0][0]
    assert lost[0][1]


def test_a_node_that_registers_again_has_lost_its_earlier_incarnation(
    view: AuditView, reads: Database
) -> None:
    shard = ViewShard()
    shard.report(node("n1", 1, gpus=("A100",)))
    shard.report(node("n1", 2))
    view.store(shard.batch())
    with reads.transaction() as session:
        found = session.fetch("SELECT incarnation, lost_reason, gpus FROM nodes ORDER BY node_no")
    assert [row[:2] for row in found] == [(1, "registered again"), (2, "")]
    assert found[0][2][0]["model"] == "A100"


def test_tasks_placed_one_by_one_make_one_attempt(view: AuditView, reads: Database) -> None:
    shard = ViewShard()
    shard.report(node("n1", cpu_milli=1000))
    shard.command(job("wide", tasks=2))
    view.store(shard.batch())
    shard.report(node("n2", cpu_milli=1000))
    view.store(shard.batch())
    assert one(reads, "SELECT count(*) FROM attempts") == (1,)
    assert one(reads, "SELECT count(*), count(DISTINCT node) FROM tasks") == (2, 2)


def test_every_command_has_its_answer(view: AuditView, reads: Database) -> None:
    shard = ViewShard()
    shard.command(job("a"), job("a"), job("b", priority=1000), put_queue("q"), cancel("a"))
    view.store(shard.batch())
    with reads.transaction() as session:
        found = session.fetch(
            "SELECT command_offset, row_no, outcome, code <> '', job_id FROM commands"
            " WHERE shard = 0 ORDER BY command_offset"
        )
    answers = [(row[0], row[1], row[2], row[3], row[4] and str(row[4])) for row in found]
    assert answers == [
        (0, None, "accepted", False, uid("a")),
        (1, None, "repeated", False, uid("a")),
        (2, 0, "refused", True, uid("b")),
        (3, None, "accepted", False, None),
        (4, None, "accepted", False, uid("a")),
    ]


def test_the_cancel_of_a_running_job_is_answered_once(view: AuditView, reads: Database) -> None:
    shard = ViewShard()
    shard.report(node("n1"))
    shard.command(job("a"))
    shard.says("a", TaskState.STARTED)
    shard.command(cancel("a"))
    view.store(shard.batch())
    shard.says("a", TaskState.ENDED, failure=FailureClass.CANCELLED)
    view.store(shard.batch())
    assert one(reads, "SELECT outcome FROM commands WHERE command_offset = 1") == ("accepted",)
    assert one(reads, "SELECT state FROM jobs") == ("cancelled",)
    assert one(reads, "SELECT failure FROM attempts") == ("cancelled",)


def test_events_go_to_the_partition_of_their_month(view: AuditView, reads: Database) -> None:
    shard = ViewShard()
    december = datetime(2031, 12, 31, 23, 59, 59, tzinfo=UTC)
    shard.now = micros(december)
    shard.command(job("a"))
    view.store(shard.batch())
    shard.now += 2_000_000
    shard.command(job("b"))
    view.store(shard.batch())
    with reads.transaction() as session:
        session.look_in("audit_g1")
        found = session.fetch(
            "SELECT tableoid::regclass::text, job_no FROM events WHERE job_no > 0 ORDER BY job_no"
        )
    assert found == [("events_2031_12", 1), ("events_2032_01", 2)]


def test_months_meet_without_a_gap() -> None:
    at = micros(datetime(2028, 2, 29, 12, tzinfo=UTC))
    assert month_of(at) == ("events_2028_02", "2028-02-01 00:00:00+00", "2028-03-01 00:00:00+00")
    at = micros(datetime(2028, 12, 1, tzinfo=UTC))
    assert month_of(at)[1:] == ("2028-12-01 00:00:00+00", "2029-01-01 00:00:00+00")


def test_text_that_postgres_cannot_hold_does_not_stop_the_writer(
    view: AuditView, reads: Database
) -> None:
    shard = ViewShard()
    shard.report(node("n\x001", cpu_milli=1, labels={"a": "b\x00c"}))
    shard.command(job("a"), replace(put_queue("q"), description="x\x00y"))
    shard.command(replace(cancel("a"), reason="be\x00cause"))
    view.store(shard.batch())
    assert one(reads, "SELECT count(*) FROM nodes") == (0,), "the fold refuses such a name"
    refused = one(reads, "SELECT detail->>'node' FROM events WHERE kind = 'ReportsRefused'")
    assert refused == ("n\ufffd1",)
    assert one(reads, "SELECT message FROM jobs WHERE job_no = 1") == ("be\ufffdcause",)
    assert one(reads, "SELECT description FROM queues WHERE name = 'q'") == ("x\ufffdy",)


def test_a_row_that_was_deleted_by_hand_stops_the_writer(view: AuditView, reads: Database) -> None:
    shard = ViewShard()
    shard.report(node("n1"))
    shard.command(job("a"))
    view.store(shard.batch())
    with reads.transaction() as session:
        session.look_in("audit_g1")
        session.execute("DELETE FROM jobs")
    shard.says("a", TaskState.STARTED)
    stood = view.position(0)
    with pytest.raises(ViewDiverged, match="rebuild"):
        view.store(shard.batch())
    assert view.position(0) == stood


def test_readers_see_one_moment_and_cannot_write(view: AuditView, url: str) -> None:
    shard = ViewShard()
    shard.command(job("a"))
    first = shard.batch()
    shard.command(job("b"))
    second = shard.batch()
    view.store(first)

    async def read() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        pool = ReadPool(url, "foldline")
        await pool.open()
        async with pool.snapshot() as session:
            before = await session.fetch("SELECT job_id FROM jobs")
            await asyncio.to_thread(view.store, second)
            after = await session.fetch("SELECT job_id FROM jobs")
        now = await pool.fetch("SELECT count(*) AS jobs FROM jobs")
        assert now == [{"jobs": 2}]
        with pytest.raises(Exception, match="read-only"):
            await pool.fetch("DELETE FROM audit_g1.jobs RETURNING job_no")
        await pool.close()
        return before, after

    before, after = asyncio.run(read())
    assert before == after == [{"job_id": before[0]["job_id"]}]
    assert str(before[0]["job_id"]) == format_job_id(shard.job("a").job_id)


def test_a_server_that_was_killed_loses_nothing_and_is_found_again(
    server: PostgresServer, view: AuditView
) -> None:
    shard = ViewShard()
    shard.command(job("a"))
    first = shard.batch()
    view.store(first)
    server.kill()
    shard.command(job("b"))
    second = shard.batch()
    with pytest.raises(ViewUnavailable):
        view.store(second)
    with pytest.raises(ViewUnavailable):
        view.position(0)
    server.start()
    assert view.position(0) == first.stop
    view.store(second)
    assert view.digest(0)[1:] == (all_jobs_digest(shard.state), 2)


def test_an_address_where_nobody_answers_is_an_operating_error() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/nothing", "public")
    with pytest.raises(DatabaseUnavailable), database.transaction():
        pass


def test_readers_find_a_server_again_soon_that_was_away_for_long(url: str) -> None:
    found = re.search(r":(\d+)/", url)
    assert found is not None
    proxy = TcpProxy((HOST, int(found[1])))
    proxy.refuse()
    pool = ReadPool(url.replace(found[0], f":{proxy.port}/"), "foldline", timeout_s=0.5)

    async def answers() -> bool:
        try:
            return await pool.fetch("SELECT 1 AS one") == [{"one": 1}]
        except DatabaseUnavailable:
            return False

    async def ask() -> None:
        await pool.open()
        try:
            away_until = monotonic() + AWAY_S
            while monotonic() < away_until:
                assert not await answers()
            proxy.serve()
            within = monotonic() + BACK_WITHIN_S
            while not await answers():
                assert monotonic() < within, "the server is there and nobody looks"
        finally:
            await pool.close()

    try:
        asyncio.run(ask())
    finally:
        proxy.close()
