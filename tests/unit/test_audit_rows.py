"""What a batch comes to in the audit view, as given a life of a shard, then these rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from infra.copy_rows import Table
from projections import audit_tables as tables
from projections.audit_rows import AuditRows, convert
from projections.event_rows import KINDS, event_rows
from projections.pipeline import row_count
from schemas import events
from schemas.events import Event
from schemas.ids import format_job_id
from schemas.terms import FailureClass, TaskState
from stream_processors.domain.rows import job_row
from tests.cluster import cancel, gang, node, put_queue, submission, uid
from tests.view_shard import Life, ViewShard, job

SQL = Path(__file__).parents[2] / "projections" / "migrations"
FIXED_TO_FOLD = ("state", "attempt", "retries_used", "due_at", "started_at", "ended_at", "failure")


def as_dicts(table: Table, rows: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    names = [name for name, _ in table.columns]
    return [dict(zip(names, row, strict=True)) for row in rows]


def kinds(rows: AuditRows) -> list[str]:
    names = {code: kind.__name__ for kind, code in KINDS.items()}
    return [names[row["kind"]] for row in as_dicts(tables.EVENTS, rows.events)]


def test_a_job_that_ran_within_one_batch_is_one_row_of_each_table() -> None:
    shard = ViewShard()
    shard.report(node())
    shard.command(job("a", job_type="training", priority=7))
    shard.run("a")
    rows = convert(shard.batch())
    (one,) = as_dicts(tables.JOBS, rows.jobs)
    assert one["state"] == "succeeded"
    assert (one["job_type"], one["name"], one["priority"]) == ("training", "job a", 7)
    assert format_job_id(one["job_id"]) == uid("a")
    (attempt,) = as_dicts(tables.ATTEMPTS, rows.attempts)
    assert attempt["placed_at"] <= attempt["started_at"] <= attempt["ended_at"]
    (task,) = as_dicts(tables.TASKS, rows.tasks)
    assert (task["node_no"], task["exit_code"], task["failure"]) == (1, 0, "none")
    assert not rows.changed_jobs
    assert not rows.changed_attempts
    assert not rows.changed_tasks
    assert kinds(rows)[-6:] == [
        "JobsSubmitted",
        "TasksPlaced",
        "TasksStarted",
        "JobsStarted",
        "TasksEnded",
        "JobsSucceeded",
    ]


def test_what_happens_later_to_a_job_changes_its_rows() -> None:
    shard = ViewShard()
    shard.report(node())
    shard.command(job("a"))
    shard.batch()
    shard.says("a", TaskState.STARTED)
    started = convert(shard.batch())
    assert not started.jobs
    (change,) = as_dicts(tables.CHANGED_JOBS, started.changed_jobs)
    assert (change["state"], change["ended_at"]) == ("running", 0)
    shard.says("a", TaskState.ENDED, failure=FailureClass.USER_ERROR)
    ended = convert(shard.batch())
    (attempt,) = as_dicts(tables.CHANGED_ATTEMPTS, ended.changed_attempts)
    assert (attempt["failure"], attempt["message"]) == ("user_error", "it broke")
    (task,) = as_dicts(tables.CHANGED_TASKS, ended.changed_tasks)
    assert (task["exit_code"], task["failure"], task["started_at"]) == (1, "user_error", 0)


def test_a_forgotten_job_changes_no_row_and_leaves_no_event() -> None:
    shard = ViewShard(retain_finished_s=60)
    shard.report(node())
    shard.command(job("a"))
    shard.run("a")
    shard.batch()
    shard.wait(61)
    assert shard.state.forgotten == 1
    rows = convert(shard.batch())
    assert not rows.changed_jobs
    assert not rows.events


def test_a_job_forgotten_in_the_batch_that_submitted_it_still_has_its_row() -> None:
    shard = ViewShard(retain_finished_s=60)
    shard.report(node())
    shard.command(job("a"))
    shard.run("a")
    shard.wait(61)
    assert not shard.state.jobs
    (one,) = as_dicts(tables.JOBS, convert(shard.batch()).jobs)
    assert one["state"] == "succeeded"


def test_an_attempt_whose_tasks_are_placed_one_by_one_is_opened_only_where_it_is_not_yet() -> None:
    shard = ViewShard()
    shard.report(node("n1", cpu_milli=1000))
    shard.command(job("wide", tasks=2))
    first = convert(shard.batch())
    shard.report(node("n2", cpu_milli=1000))
    second = convert(shard.batch())
    assert not first.attempts
    assert not second.attempts
    assert [row[:3] for row in first.opened_attempts] == [(0, 1, 1)]
    assert [row[:3] for row in second.opened_attempts] == [(0, 1, 1)]
    assert len(first.tasks) == len(second.tasks) == 1


def test_a_gang_is_opened_once_and_whole() -> None:
    shard = ViewShard()
    shard.report(node())
    shard.command(gang("g", 3))
    rows = convert(shard.batch())
    assert len(rows.attempts) == 1
    assert len(rows.tasks) == 3
    assert not rows.opened_attempts


def test_refused_and_repeated_commands_are_answered_and_accepted_submissions_by_their_job() -> None:
    shard = ViewShard()
    shard.command(job("a"), job("a"), job("b", priority=1000))
    rows = convert(shard.batch())
    answers = as_dicts(tables.ANSWERS, rows.answers)
    found = {row["command_offset"]: (row["outcome"], row["code"]) for row in answers}
    assert found[1] == ("repeated", "")
    assert found[2][0] == "refused"
    assert found[2][1]
    (one,) = as_dicts(tables.JOBS, rows.jobs)
    assert one["command_offset"] == 0


def test_a_cancel_is_answered_once_whether_the_job_ran_or_not() -> None:
    shard = ViewShard()
    shard.report(node("n1", cpu_milli=1000))
    shard.command(job("runs"), job("waits"))
    shard.says("runs", TaskState.STARTED)
    shard.command(cancel("runs"), cancel("waits"))
    rows = convert(shard.batch())
    assert [row[1] for row in rows.answers] == [2]
    assert [row[1] for row in rows.cancelled] == [3]
    shard.says("runs", TaskState.ENDED, failure=FailureClass.CANCELLED)
    later = convert(shard.batch())
    assert not later.answers
    assert [row[1] for row in later.cancelled] == [2], "kept only where there is no answer yet"


def test_queues_pools_and_nodes_come_in_the_order_of_the_log() -> None:
    shard = ViewShard()
    shard.command(put_queue("q"))
    shard.report(node("n1", 1))
    shard.report(node("n1", 2))
    names = [type(event).__name__ for _, event in convert(shard.batch()).fleet]
    fleet = ["PoolChanged", "QueueChanged", "QueueChanged"]
    assert names == [*fleet, "NodeRegistered", "NodeRegistered"]


def test_a_spec_that_cannot_be_read_leaves_the_type_empty_and_keeps_the_bytes() -> None:
    shard = ViewShard()
    shard.command(submission("a"))
    (one,) = as_dicts(tables.JOBS, convert(shard.batch()).jobs)
    assert (one["job_type"], one["spec"]) == ("", b"spec")


@pytest.mark.parametrize("seed", range(8))
def test_rows_folded_over_any_life_are_the_fold_itself(seed: int) -> None:
    life = Life(seed)
    held: dict[int, dict[str, Any]] = {}
    for _ in range(150):
        life.step()
        if life.shard.records and life.chance.random() < 0.3:
            rows = convert(life.shard.batch())
            held.update({row["job_no"]: row for row in as_dicts(tables.JOBS, rows.jobs)})
            for change in as_dicts(tables.CHANGED_JOBS, rows.changed_jobs):
                held[change["job_no"]].update(change)
            for no, job in life.shard.state.jobs.items():
                due = job_row(0, job)
                assert all(held[no][name] == getattr(due, name) for name in FIXED_TO_FOLD)


@pytest.mark.parametrize("seed", range(4))
def test_every_event_of_any_life_has_as_many_rows_as_it_speaks_of(seed: int) -> None:
    life = Life(seed)
    for _ in range(200):
        life.step()
    for event in life.shard.events:
        if type(event) in KINDS:
            assert len(list(event_rows(event))) == row_count(event)


def test_every_kind_of_event_but_forgetting_has_a_code_and_the_migrations_know_it() -> None:
    assert set(get_args(Event)) - set(KINDS) == {events.JobsForgotten}
    text = "".join(path.read_text() for path in sorted((SQL / "audit").glob("*.sql")))
    known = {name: int(code) for code, name in re.findall(r"\((\d+), '(\w+)'\)", text)}
    assert known == {kind.__name__: code for kind, code in KINDS.items()}


def test_details_leave_out_what_says_nothing() -> None:
    ended = events.TasksEnded(
        [1, 2], [1, 1], [0, 0], [0, 137], [FailureClass.NONE, FailureClass.OUT_OF_MEMORY], ["", "x"]
    )
    details = [row[-1] for row in event_rows(ended)]
    assert details == [None, {"exit_code": 137, "failure": "out_of_memory", "message": "x"}]


def test_a_job_that_ran_out_of_time_before_it_ever_ran_has_no_attempt() -> None:
    shard = ViewShard()
    shard.command(job("a", deadline_s=5))
    shard.batch()
    shard.wait(6)
    rows = convert(shard.batch())
    assert [row[:2] for row in rows.changed_jobs] == [(0, 1)]
    assert not rows.changed_attempts
