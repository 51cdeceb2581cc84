"""Dead letters in the audit view on a real PostgreSQL: stored, dealt with, found, counted, equal."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from infra.http.letters import LetterFilters
from infra.postgres import Database, moment
from projections.audit import AuditView
from projections.dlq.answers import LetterAnswer, LetterGroups, LetterList
from projections.dlq.queries import LetterPage, LetterQueries
from projections.dlq.reads import ViewLetters
from projections.letters import LetterBook
from projections.logs import MemoryLogs
from projections.queries import Queries
from projections.rebuild import audit_digest
from projections.verify import ViewFinding, verify_views
from schemas.digest import digest
from schemas.terms import FailureClass
from tests.cluster import node, uid
from tests.letter_shard import lay_aside, park, purge, redrive, shard_with_node
from tests.view_shard import Life, ViewShard, job

pytest_plugins = ["tests.audit_fixtures"]


@pytest.fixture
def view(audit: AuditView) -> AuditView:
    return audit


def ask(url: str, asked: Any) -> Any:
    """What `asked(letters)` answers on the reading side."""

    async def run() -> Any:
        queries = Queries(url)
        await queries.open()
        try:
            return (await asked(ViewLetters(LetterQueries(queries)))).value
        finally:
            await queries.close()

    return asyncio.run(run())


def listed(url: str, limit: int = 10, cursor: str | None = None, **filters: Any) -> LetterList:
    page = LetterPage(LetterFilters(**filters), cursor, limit)
    found: LetterList = ask(url, lambda letters: letters.page(page))
    return found


def ids(page: LetterList) -> list[str]:
    return [letter.id for letter in page.letters]


def book_of(shard: ViewShard, book: LetterBook) -> int:
    """The digest that the log asks for, after the records since the last batch."""
    for record in shard.records:
        gone = {one.no: one for one in record.forgotten}
        book.take(record, {**shard.state.jobs, **gone})
    return book.digest()


def test_a_letter_is_shown_with_its_attempts_and_last_lines(view: AuditView, url: str) -> None:
    shard = shard_with_node()
    letter = lay_aside(shard, "a", FailureClass.OUT_OF_MEMORY, memory_mib=512)
    view.store(shard.batch())
    found: LetterAnswer = ask(url, lambda letters: letters.letter(letter))
    assert (found.state, found.kind, found.failure) == ("open", "job", "out_of_memory")
    assert (found.name, found.job_type, found.command) == ("job a", "training", ["true"])
    assert found.fingerprint == shard.job("a").fingerprint
    assert found.log_tail == "the last words"
    assert [(one.attempt, one.nodes, one.log_tail) for one in found.history] == [
        (1, ["n1"], "the last words")
    ]
    assert found.resources is not None
    assert (found.resources.memory_mib, found.priority, found.tasks) == (512, 50, 1)
    assert found.job_url == f"/api/v1/jobs/{letter}"
    assert ask(url, lambda letters: letters.letter(uid("nobody"))) is None


def test_a_parked_input_is_shown_with_its_bytes_and_headers(view: AuditView, url: str) -> None:
    shard = shard_with_node()
    letter = park(shard, b"\x00rubbish")
    view.store(shard.batch())
    found: LetterAnswer = ask(url, lambda letters: letters.letter(letter))
    assert (found.kind, found.failure, found.fingerprint) == (
        "input",
        "poison",
        "commands/unknown_schema",
    )
    assert found.input is not None
    assert (found.input.topic, found.input.offset, found.input.size) == (
        "foldline.jobs.commands.v1",
        int(letter.split(":")[2]),
        8,
    )
    assert (found.input.value_base64, found.input.key_base64) == ("AHJ1YmJpc2g=", "ZGVmYXVsdA==")
    assert [(one.name, one.value_base64) for one in found.input.headers] == [("ce_id", "/wB4")]
    assert found.resources is None


def test_redriven_and_purged_letters_say_by_whom_and_are_open_no_more(
    view: AuditView, url: str
) -> None:
    shard = shard_with_node()
    first, second, third = (lay_aside(shard, key) for key in "abc")
    view.store(shard.batch())
    again = redrive(shard, first, "a2")
    purge(shard, second, reason="known")
    view.store(shard.batch())
    assert ids(listed(url)) == [third]
    (redriven,) = listed(url, state="redriven").letters
    assert (redriven.id, redriven.redriven_by) == (first, again)
    (purged,) = listed(url, state="purged").letters
    assert (purged.id, purged.purged_by, purged.purge_reason) == (second, "someone", "known")
    assert len(listed(url, state="any").letters) == 3


def test_what_happens_to_a_letter_in_the_batch_that_opens_it_counts_too(
    view: AuditView, url: str
) -> None:
    shard = shard_with_node()
    first, second = lay_aside(shard, "a"), lay_aside(shard, "b")
    redrive(shard, first, "a2")
    purge(shard, first, second)
    view.store(shard.batch())
    found = listed(url, state="purged").letters
    assert {letter.id for letter in found} == {first, second}
    assert [letter.redriven_by for letter in found if letter.id == first] == [uid("a2")]


def test_filters_choose_by_every_property(view: AuditView, url: str) -> None:
    shard = shard_with_node()
    memory = lay_aside(shard, "a", FailureClass.OUT_OF_MEMORY)
    shard.wait(100)
    error = lay_aside(shard, "b", tail="Traceback: boom")
    parked = park(shard)
    view.store(shard.batch())
    assert ids(listed(url, failure=["out_of_memory", "timeout"])) == [memory]
    assert ids(listed(url, fingerprint=shard.job("b").fingerprint)) == [error]
    assert ids(listed(url, kind="input")) == [parked]
    assert set(ids(listed(url, queue="default", tenant="default"))) == {memory, error}
    assert ids(listed(url, cluster="west")) == []
    later = moment(shard.job("b").ended_at)
    assert ids(listed(url, until=later)) == [memory]
    assert memory not in ids(listed(url, since=later))


def test_pages_hold_every_letter_once_however_many_share_a_moment(
    view: AuditView, url: str
) -> None:
    shard = shard_with_node()
    due = {lay_aside(shard, f"j{number}") for number in range(7)}
    view.store(shard.batch())
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = listed(url, 3, cursor)
        found += ids(page)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert (len(found), set(found)) == (7, due)


def test_groups_count_what_looks_alike(view: AuditView, url: str) -> None:
    shard = shard_with_node()
    for number in range(3):
        lay_aside(shard, f"j{number}", tail=f"step {number}: loss is NaN")
    lay_aside(shard, "other", FailureClass.OUT_OF_MEMORY)
    view.store(shard.batch())
    groups: LetterGroups = ask(url, lambda letters: letters.groups(LetterFilters()))
    assert [(group.letters, group.failure) for group in groups.groups] == [
        (3, "user_error"),
        (1, "out_of_memory"),
    ]
    assert groups.groups[0].last_at - groups.groups[0].first_at >= timedelta(0)


def test_a_key_used_again_after_its_job_was_forgotten_is_another_job_and_letter(
    view: AuditView, url: str
) -> None:
    shard = ViewShard(retain_finished_s=10)
    shard.report(node())
    letter = lay_aside(shard, "a")
    shard.wait(20)
    view.store(shard.batch())
    assert lay_aside(shard, "a", tail="second time") == letter
    purge(shard, letter)
    view.store(shard.batch())
    assert [one.state for one in listed(url, state="any").letters] == ["purged", "open"]
    found: LetterAnswer = ask(url, lambda letters: letters.letter(letter))
    assert found.log_tail == "second time"


@pytest.mark.parametrize("seed", range(3))
def test_the_letters_of_any_life_are_those_of_the_log_whatever_the_batches(
    view: AuditView, seed: int
) -> None:
    life, book = Life(seed), LetterBook(0)
    known: list[str] = []
    for number in range(150):
        life.step()
        draw = life.chance.random()
        if draw < 0.1:
            known.append(park(life.shard))
        elif draw < 0.2 and known:
            purge(life.shard, life.chance.choice(known))
        elif draw < 0.3 and known:
            redrive(life.shard, life.chance.choice(known), f"again{number}")
        known += [
            uid(f"j{made}")
            for made in range(life.made)
            if (one := life.shard.state.nos.get(bytes.fromhex(uid(f"j{made}").replace("-", ""))))
            and life.shard.state.jobs[one].state.value == "dead_letter"
        ]
        if life.shard.records and life.chance.random() < 0.2:
            book_of(life.shard, book)
            view.store(life.shard.batch())
    life.shard.wait(1)
    due = book_of(life.shard, book)
    view.store(life.shard.batch())
    _, rows = view.letters(0)
    assert rows
    assert digest(rows) == due


def test_queues_and_pools_keep_how_often_things_are_tried(view: AuditView, url: str) -> None:
    shard = shard_with_node()
    shard.command(job("a"))
    view.store(shard.batch())
    reads = Database(url, "foldline")
    with reads.transaction() as session:
        ((on, per_hour),) = session.fetch("SELECT retries_on, tenant_retries_per_hour FROM pools")
        ((defaults, rate),) = session.fetch("SELECT defaults, retries_per_hour FROM queues")
    reads.close()
    assert (on, per_hour, rate) == (True, 0, 0)
    assert defaults["max_retries"] == -1


def test_a_letter_that_was_changed_by_hand_is_found_by_verification(
    view: AuditView, url: str
) -> None:
    shard = shard_with_node()
    letter = lay_aside(shard, "a")
    lay_aside(shard, "b")
    logs = MemoryLogs({0: shard.partition})
    view.store(shard.batch())

    def found() -> ViewFinding:
        return verify_views(logs, {"audit": (view, audit_digest)}).shards[0].views[0]

    assert (found().problem, found().letters) == ("", 2)
    for act, word in (
        ("UPDATE dead_letters SET state = 'purged' WHERE letter_id = %s", "should be"),
        ("DELETE FROM dead_letters WHERE letter_id = %s", "missing"),
    ):
        database = Database(url, "audit_g1")
        with database.transaction() as session:
            session.execute(act, (letter,))
        database.close()
        assert letter in found().problem
        assert word in found().problem
