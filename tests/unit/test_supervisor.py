"""When a process that falls is started again."""

from __future__ import annotations

from foldline.supervisor import BACKOFF_MAX_S, BACKOFF_S, STEADY_S, Falls


def test_the_pause_before_a_restart_doubles_and_is_bounded() -> None:
    falls = Falls()
    pauses = []
    for second in range(10):
        falls.note_start(float(second))
        pauses.append(falls.note(float(second)))
    assert pauses[:4] == [BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S, 8 * BACKOFF_S]
    assert pauses[-1] == BACKOFF_MAX_S


def test_a_process_that_ran_steadily_is_restarted_as_quickly_as_the_first_time() -> None:
    falls = Falls()
    for second in range(5):
        falls.note_start(float(second))
        falls.note(float(second))
    falls.note_start(100.0)
    assert falls.note(100.0 + STEADY_S + 1) == BACKOFF_S


def test_a_process_is_due_only_after_its_pause() -> None:
    falls = Falls(started_at=10.0)
    pause = falls.note(11.0)
    assert (falls.is_down, falls.due_at) == (True, 11.0 + pause)
    falls.note_start(12.0)
    assert not falls.is_down
