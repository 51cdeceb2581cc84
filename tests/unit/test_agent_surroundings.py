"""What a task finds around it, and what an agent writes down for its successor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from schemas.terms import TaskState
from tests.agent_world import options
from workers.environment import places, task_environment
from workers.executor import Rendezvous, TaskKey, TaskOrder
from workers.journal import Group, Journal, NodeTaken
from workers.outbox import BATCH_MAX, Outbox, Row


def order(**changes: Any) -> TaskOrder:
    values: dict[str, Any] = {
        "key": TaskKey(7, 2, 3),
        "job_id": "a-job",
        "command": ("run",),
        "env": (("LR", "0.1"),),
        "config": '{"a": 1}',
        "devices": (2, 5),
        "gang": True,
        "tasks": 4,
        "cpu_milli": 2500,
        "memory_mib": 512,
        "grace_s": 30,
    }
    return TaskOrder(**(values | changes))


def test_a_task_is_told_who_it_is_and_what_it_was_given() -> None:
    env = task_environment(options(), order(), None, {"PATH": "/bin", "SECRET": "no"})
    assert env["FOLDLINE_JOB_ID"] == "a-job"
    assert (env["FOLDLINE_ATTEMPT"], env["FOLDLINE_TASK"], env["FOLDLINE_NODE"]) == ("2", "3", "n1")
    assert env["FOLDLINE_CONFIG_JSON"] == '{"a": 1}'
    assert env["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert env["LR"] == "0.1"
    assert env["PATH"] == "/bin"
    assert "SECRET" not in env
    assert "RANK" not in env


def test_a_gang_member_finds_what_torchrun_would_set() -> None:
    env = task_environment(options(), order(), Rendezvous("10.0.0.9:4321", 1), {})
    assert {name: env[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")} == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
    }
    assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("10.0.0.9", "4321")


def test_a_task_without_gpus_sees_none() -> None:
    assert task_environment(options(), order(devices=()), None, {})["CUDA_VISIBLE_DEVICES"] == ""


def test_a_spec_may_set_what_is_inherited_but_not_what_foldline_says() -> None:
    env = (("PATH", "/opt"), ("FOLDLINE_CHECKPOINT_DIR", "/other/job"))
    found = task_environment(options(), order(env=env), None, {"PATH": "/bin"})
    assert found["PATH"] == "/opt"
    assert found["FOLDLINE_CHECKPOINT_DIR"] == "/nowhere/checkpoints/a-job"


def test_checkpoints_survive_attempts_and_outputs_are_kept_apart() -> None:
    first, second = (places(options(), order(key=TaskKey(7, attempt, 0))) for attempt in (1, 2))
    assert first.checkpoint == second.checkpoint
    assert first.output != second.output
    assert first.work != second.work


def test_a_shared_directory_holds_what_other_nodes_must_see() -> None:
    where = places(options(shared_dir=Path("/shared")), order())
    assert where.checkpoint == Path("/shared/checkpoints/a-job")
    assert where.output == Path("/shared/outputs/a-job/2")
    assert where.work.is_relative_to("/nowhere")


def test_a_second_agent_of_a_node_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "n1")
    with pytest.raises(NodeTaken, match=f"node n1 already has an agent .*process {os.getpid()}"):
        Journal(tmp_path, "n1")
    journal.close()
    Journal(tmp_path, "n1").close()


def test_a_journal_tells_the_next_agent_what_runs_and_the_last_incarnation(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "n1")
    assert not journal.earlier.is_known
    journal.begin(42)
    journal.add(Group(100, 1, 101, 2))
    journal.add(Group(200, 3, 201, 4))
    journal.remove(100)
    journal.close()
    successor = Journal(tmp_path, "n1")
    assert successor.earlier.is_known
    assert successor.earlier.incarnation == 42
    assert successor.earlier.token == journal.token != successor.token
    assert successor.earlier.groups == {200: Group(200, 3, 201, 4)}
    successor.close()


def test_a_line_cut_short_by_a_crash_does_not_hide_the_others(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "n1")
    journal.begin(42)
    journal.add(Group(200, 3, 201, 4))
    journal.close()
    with (tmp_path / "journal").open("ab") as file:
        file.write(b"[300, 5")
    successor = Journal(tmp_path, "n1")
    assert list(successor.earlier.groups) == [200]
    successor.close()


def test_a_journal_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"\x00nonsense")
    journal = Journal(tmp_path, "n1")
    assert not journal.earlier.is_known
    journal.close()


def test_a_long_journal_is_rewritten_with_only_what_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.journal.COMPACT_LINES", 10)
    journal = Journal(tmp_path, "n1")
    journal.begin(1)
    journal.add(Group(1, 1, 1, 1))
    for number in range(2, 30):
        journal.add(Group(number, 1, number, 1))
        journal.remove(number)
    journal.close()
    assert len((tmp_path / "journal").read_bytes().splitlines()) < 15
    successor = Journal(tmp_path, "n1")
    assert list(successor.earlier.groups) == [1]
    successor.close()


def row(number: int, incarnation: int = 1, state: TaskState = TaskState.STARTED) -> Row:
    return Row(incarnation, TaskKey(number, 1, 0), state, 0)


def test_a_report_holds_rows_of_one_incarnation_and_not_too_many() -> None:
    outbox = Outbox("n1", "default")
    for number in range(BATCH_MAX + 1):
        outbox.add(row(number))
    outbox.add(row(1, incarnation=2))
    sizes = []
    while report := outbox.take():
        sizes.append((report.incarnation, len(report.job_nos)))
        outbox.acknowledged()
    assert sizes == [(1, BATCH_MAX), (1, 1), (2, 1)]


def test_a_state_said_twice_before_it_was_sent_is_sent_once() -> None:
    outbox = Outbox("n1", "default")
    for _ in range(3):
        outbox.add(row(1))
    assert len(outbox) == 1
    assert outbox.take() is not None
    outbox.add(row(1))
    assert len(outbox) == 2
    outbox.failed()
    outbox.add(row(1))
    assert len(outbox) == 2
