"""Where the disk has no room: what is written down stays whole, and what cannot be does not run."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.chronicle import Chronicle, end_line
from workers.journal import DataDirUnwritable, Group, Journal

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
NAMES = {"job": "a-job", "incarnation": 3, "no": 7, "attempt": 1, "task": 0}


class Disk:
    """`os.write` with `room` bytes left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self._write: Callable[[int, bytes], int] = os.write
        monkeypatch.setattr("os.write", self.write)

    def write(self, file: int, data: bytes) -> int:
        if self.room is None:
            return self._write(file, data)
        if not self.room:
            raise FULL
        written = self._write(file, data[: self.room])
        self.room -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def reopened(journal: Journal, data_dir: Path) -> Journal:
    journal.close()
    return Journal(data_dir, "n1")


@pytest.mark.parametrize("room", [0, 1, 7])
def test_half_a_line_never_spoils_the_next_one(tmp_path: Path, disk: Disk, room: int) -> None:
    journal = Journal(tmp_path, "n1")
    journal.begin(3)
    journal.add(Group(100, 1, 101, 2))
    disk.room = room
    with pytest.raises(DataDirUnwritable, match="No space left on device") as raised:
        journal.add(Group(200, 3, 201, 4))
    assert raised.value.is_full
    disk.room = None
    journal.add(Group(300, 5, 301, 6))
    journal = reopened(journal, tmp_path)
    assert sorted(journal.earlier.groups) == [100, 300]
    journal.close()


def test_an_incarnation_that_cannot_be_written_down_has_not_begun(
    tmp_path: Path, disk: Disk
) -> None:
    journal = Journal(tmp_path, "n1")
    journal.begin(3)
    journal.add(Group(100, 1, 101, 2))
    disk.room = 5
    with pytest.raises(DataDirUnwritable):
        journal.begin(4)
    assert journal.incarnation == 3
    disk.room = None
    journal.add(Group(200, 3, 201, 4))
    journal = reopened(journal, tmp_path)
    assert journal.earlier.incarnation == 3
    assert sorted(journal.earlier.groups) == [100, 200]
    assert not (tmp_path / "journal.new").exists()
    journal.close()


def test_an_end_that_cannot_be_written_down_is_no_error(tmp_path: Path, disk: Disk) -> None:
    journal = Journal(tmp_path, "n1")
    journal.begin(3)
    journal.add(Group(100, 1, 101, 2))
    disk.room = 0
    journal.remove(100)
    disk.room = None
    journal = reopened(journal, tmp_path)
    assert journal.earlier.groups == {100: Group(100, 1, 101, 2)}
    journal.close()


def test_a_journal_that_cannot_be_made_shorter_goes_on_as_it_is(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.journal.COMPACT_LINES", 10)
    journal = Journal(tmp_path, "n1")
    journal.begin(1)
    for number in range(1, 12):
        journal.add(Group(number, 1, number, 1))
    disk.room = 20  # one line, but not a new journal
    journal.remove(1)
    disk.room = None
    journal.add(Group(99, 1, 99, 1))
    journal = reopened(journal, tmp_path)
    assert set(journal.earlier.groups) >= {2, 11, 99}
    journal.close()


def test_a_directory_that_takes_nothing_is_a_clear_error_and_not_a_full_disk(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataDirUnwritable, match="cannot be written") as raised:
        Journal(tmp_path / "file" / "below", "n1")
    assert not raised.value.is_full


def events(path: Path) -> list[str]:
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line)["e"])
        except ValueError:
            continue  # half a line of a full disk
    return found


@pytest.mark.parametrize("room", [0, 9])
def test_lines_of_the_chronicle_that_found_no_room_are_counted(
    tmp_path: Path, disk: Disk, room: int
) -> None:
    chronicle = Chronicle(tmp_path)
    chronicle.incarnation(3, 10)
    disk.room = room
    chronicle.start(NAMES, [100, 1, 101, 2], 20)
    disk.room = 0
    chronicle.end(end_line(NAMES, 100, 30, "exited", 0))
    assert chronicle.lost == 2
    disk.room = None
    chronicle.start(NAMES, [200, 1, 201, 2], 40)
    assert events(chronicle.path)[0] == "incarnation"
    assert events(chronicle.path)[-1] == "start"
    assert chronicle.lost == 0


def test_the_chronicle_tells_what_ran_when_and_as_what(tmp_path: Path) -> None:
    chronicle = Chronicle(tmp_path)
    chronicle.agent("n1", "boot-a", "token-a", 5)
    chronicle.start(NAMES, [100, 1, 101, 2], 20)
    chronicle.end(end_line(NAMES, 100, 30, "no_progress", -15))
    agent, start, end = map(json.loads, chronicle.path.read_text().splitlines())
    assert (agent["node"], agent["boot"], agent["pid"]) == ("n1", "boot-a", os.getpid())
    assert (start["e"], end["e"]) == ("start", "end")
    for line in (start, end):
        assert {name: line[name] for name in NAMES} == NAMES
        assert line["supervisor"] == 100
        assert line["wall_us"] > 0
    assert (start["pid"], start["start"], start["boot_ns"]) == (101, 2, 20)
    assert (end["cause"], end["code"], end["boot_ns"]) == ("no_progress", -15, 30)


def test_the_chronicle_is_bounded_and_keeps_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.chronicle.MAX_BYTES", 20_000)
    monkeypatch.setattr("workers.chronicle.LOOK_EVERY", 4)
    chronicle = Chronicle(tmp_path)
    for number in range(1000):
        chronicle.start(NAMES | {"no": number}, [100, 1, 101, 2], number)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["tasks.1.jsonl", "tasks.jsonl"]
    assert sum(file.stat().st_size for file in files) < 2 * 22_000
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    numbers = [line["no"] for line in lines]
    assert numbers == list(range(numbers[0], 1000))
