"""What triage decides of dead letters: rules, delays, how often, bursts and circuits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.settings import EdgeSettings, SettingsError, load
from schemas.codec import decode_spec, encode, encode_body
from schemas.public import DeadLetter, ParkedInput
from schemas.terms import DEFAULT_TERMS, FailureClass, JobSpec, Micros
from stream_processors.domain.redrive import Changes
from stream_processors.edge.process import TriageDesk, policy_of
from stream_processors.edge.redrives import command_of
from stream_processors.edge.triage import (
    SECOND_US,
    Decision,
    Redrive,
    Rule,
    Triage,
    TriagePolicy,
    Verdict,
    matches,
    times_redriven,
)
from tests.cluster import uid

NOW = 1_000_000 * SECOND_US
RULE = Rule("grow", failures=(FailureClass.OUT_OF_MEMORY,), delay_us=60 * SECOND_US)
POLICY = TriagePolicy(
    rules=(RULE,),
    burst_letters=3,
    burst_window_us=10 * SECOND_US,
    circuit_us=100 * SECOND_US,
    act_within_us=1000 * SECOND_US,
)


def letter(key: str = "a", at: int = NOW, **changes: object) -> DeadLetter:
    schema_id, spec = encode_body(JobSpec("training", command=("train",)))
    made = DeadLetter(
        job_id=uid(key),
        tenant="default",
        cluster="default",
        queue="research",
        attempts=1,
        at=Micros(at),
        failure=FailureClass.OUT_OF_MEMORY,
        message="out of memory",
        nodes=("n1",),
        key_id=0,
        spec_schema_id=schema_id,
        spec=spec,
        fingerprint="f1",
        terms=replace(DEFAULT_TERMS, memory_max_mib=4096),
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # names of its fields


def parked(at: int = NOW) -> ParkedInput:
    return ParkedInput(
        "0:commands:7", "t", 0, 7, Micros(at), "malformed", "", b"", (), 1, bytes(32), b"x"
    )


def sent(triage: Triage, now: int) -> list[str]:
    found = triage.due(now)
    return [one.letter.job_id for one, verdict in found if verdict is Verdict.REDRIVE]


def test_a_letter_that_a_rule_matches_is_due_after_its_delay_and_once() -> None:
    triage = Triage(POLICY)
    assert triage.take(letter(), NOW) == Decision(Verdict.REDRIVE, "grow")
    assert sent(triage, NOW + 59 * SECOND_US) == []
    assert sent(triage, NOW + 60 * SECOND_US) == [uid("a")]
    assert sent(triage, NOW + 1000 * SECOND_US) == []


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule("any"), True),
        (Rule("class", failures=(FailureClass.OUT_OF_MEMORY, FailureClass.TIMEOUT)), True),
        (Rule("class", failures=(FailureClass.TIMEOUT,)), False),
        (Rule("look", fingerprint="f1"), True),
        (Rule("look", fingerprint="f2"), False),
        (Rule("queue", queue="research", tenant="default", cluster="default"), True),
        (Rule("queue", queue="other"), False),
        (Rule("cluster", cluster="west"), False),
        (Rule("tenant", tenant="other"), False),
    ],
)
def test_a_rule_speaks_of_letters_for_which_all_it_says_holds(rule: Rule, expected: bool) -> None:
    assert matches(rule, letter()) is expected


def test_without_a_rule_nothing_is_redriven() -> None:
    triage = Triage(POLICY)
    other = letter(failure=FailureClass.USER_ERROR)
    assert triage.take(other, NOW) == Decision(Verdict.NO_RULE)
    assert triage.take(parked(), NOW) == Decision(Verdict.NO_RULE)
    assert triage.waiting() == 0


def test_a_job_says_itself_how_often_its_work_was_redriven() -> None:
    rule = replace(RULE, max_times=2)
    triage = Triage(replace(POLICY, rules=(rule,)))
    triage.take(letter("b", causation_id="triage:grow:1"), NOW)
    ((redrive, _),) = triage.due(NOW + 60 * SECOND_US)
    assert redrive.causation_id == "triage:grow:2"
    spent = triage.take(letter("c", causation_id="triage:grow:2"), NOW)
    assert spent == Decision(Verdict.SPENT, "grow")
    assert times_redriven(letter(causation_id="triage:other:2"), rule) == 0
    assert times_redriven(letter(causation_id="redrive:someone"), rule) == 0


def test_a_burst_opens_the_circuit_and_gives_up_what_waits() -> None:
    triage = Triage(POLICY)
    for number in range(3):
        triage.take(letter(f"j{number}", NOW + number * SECOND_US), NOW)
    assert triage.open_circuits(NOW + 3 * SECOND_US) == ["f1"]
    late = triage.take(letter("late", NOW + 4 * SECOND_US), NOW + 4 * SECOND_US)
    assert late == Decision(Verdict.CIRCUIT_OPEN, "grow")
    due = triage.due(NOW + 70 * SECOND_US)
    assert [verdict for _, verdict in due] == [Verdict.CIRCUIT_OPEN] * 2


def test_a_circuit_closes_after_its_time_and_only_then() -> None:
    triage = Triage(POLICY)
    for number in range(3):
        triage.take(letter(f"j{number}", NOW), NOW)
    assert triage.is_open("f1", NOW + 100 * SECOND_US - 1)
    later = NOW + 100 * SECOND_US
    assert triage.take(letter("later", later), later).verdict is Verdict.REDRIVE
    assert triage.open_circuits(later) == []


def test_slow_letters_and_letters_of_other_looks_are_no_burst() -> None:
    triage = Triage(POLICY)
    for number in range(6):
        triage.take(letter(f"slow{number}", NOW + number * 6 * SECOND_US), NOW)
    for number in range(6):
        triage.take(letter(f"x{number}", NOW, fingerprint=f"look{number}"), NOW)
    assert triage.open_circuits(NOW) == []


def test_an_old_letter_is_left_to_people() -> None:
    triage = Triage(POLICY)
    old = letter(at=NOW - 1001 * SECOND_US)
    assert triage.take(old, NOW) == Decision(Verdict.TOO_OLD, "grow")


def test_letters_are_counted_by_window_and_forgotten_with_it() -> None:
    triage = Triage(POLICY)
    triage.take(letter("a"), NOW)
    triage.take(letter("b", NOW + SECOND_US), NOW)
    triage.take(parked(), NOW)
    assert triage.counts(NOW) == {"f1": 2, "input/malformed": 1}
    later = NOW + 200 * SECOND_US
    triage.forget(later)
    assert (triage.counts(NOW), triage._times, triage._open_until) == ({}, {}, {})


def test_the_same_letters_again_come_to_the_same_redrives() -> None:
    letters = [letter(f"j{n}", NOW + n * 7 * SECOND_US) for n in range(20)]
    first, second = Triage(POLICY), Triage(POLICY)
    for one in letters:
        first.take(one, NOW)
        second.take(one, NOW)
    end = NOW + 900 * SECOND_US
    assert [one for one, _ in first.due(end)] == [one for one, _ in second.due(end)]


def test_a_redrive_is_the_command_that_a_person_would_send() -> None:
    rule = replace(RULE, changes=Changes(memory_factor_milli=2000))
    command = command_of(Redrive(NOW, letter(), rule, 1))
    assert not isinstance(command, str)
    assert command.terms.memory_mib == 2 * DEFAULT_TERMS.memory_mib
    assert (command.redrives, command.causation_id) == (uid("a"), "triage:grow:1")
    assert command.actor == "triage"
    made = letter()
    assert command.spec == decode_spec(made.spec_schema_id, made.spec)


def test_what_cannot_run_again_says_why() -> None:
    assert "encrypted" in str(command_of(Redrive(NOW, letter(key_id=3), RULE, 1)))
    assert "cannot be read" in str(command_of(Redrive(NOW, letter(spec=b"\xff"), RULE, 1)))
    tiny = replace(RULE, changes=Changes(gpu_milli=1500))
    assert "gpu" in str(command_of(Redrive(NOW, letter(), tiny, 1)))


class Sender:
    """Takes so many commands, then Kafka is away."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.sent: list[str] = []

    def send(self, command: object) -> None:
        from infra.kafka_port import KafkaUnavailable  # noqa: PLC0415 - of this double alone

        if len(self.sent) >= self.takes:
            raise KafkaUnavailable("away")
        self.sent.append(command.redrives)  # type: ignore[attr-defined]  # a SubmitJob

    def close(self) -> None:
        """Nothing to let go of."""


def test_what_kafka_does_not_take_waits_on_and_rubbish_is_passed_over() -> None:
    sender = Sender(1)
    desk = TriageDesk(Triage(POLICY), sender)  # type: ignore[arg-type]  # a double
    desk.take(b"rubbish", NOW)
    for number in range(2):
        desk.take(encode(letter(f"j{number}", NOW + number)), NOW)
    later = NOW + 61 * SECOND_US
    unsent = desk.send(desk.due(later))
    assert sender.sent == [uid("j0")]
    assert [one.letter.job_id for one in unsent] == [uid("j1")]
    for one in unsent:
        desk.triage.put_back(one)
    sender.takes = 2
    assert desk.send(desk.due(later)) == ()
    assert sender.sent == [uid("j0"), uid("j1")]


def test_rules_come_from_the_settings_file(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "foldline.toml"  # type: ignore[operator]  # pytest's path
    file.write_text(
        """
        [edge]
        burst_letters = 5
        [[edge.rules]]
        name = "grow"
        failure = ["out_of_memory"]
        memory_factor = 1.5
        max_times = 2
        """
    )
    monkeypatch.setenv("FOLDLINE_CONFIG", str(file))
    (rule,) = policy_of(load(EdgeSettings)).rules
    assert (rule.name, rule.max_times, rule.failures) == ("grow", 2, (FailureClass.OUT_OF_MEMORY,))
    assert rule.changes == Changes(memory_factor_milli=1500)
    for wrong in ('failure = ["sadness"]', 'colour = "red"', "delay_s = 99999"):
        file.write_text(f'[edge]\n[[edge.rules]]\nname = "x"\n{wrong}\n')
        with pytest.raises(SettingsError, match=r"rules|act_within"):
            load(EdgeSettings)
