"""Tables and generations of the audit view on a real PostgreSQL: migrated, built, flipped, kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.postgres import Database
from projections.audit import AuditView
from projections.migrate import find_live, migrate
from projections.pipeline import ViewBehind, ViewReplaced, ViewUnavailable
from tests.postgres_server import PostgresServer
from tests.view_shard import ViewShard, job

pytest_plugins = ["tests.audit_fixtures"]


@pytest.fixture
def view(audit: AuditView) -> AuditView:
    return audit


@pytest.fixture
def reads(url: str) -> Iterator[Database]:
    """The schema that readers see."""
    database = Database(url, "foldline")
    yield database
    database.close()


def jobs_seen(reads: Database) -> int:
    with reads.transaction() as session:
        ((count,),) = session.fetch("SELECT count(*) FROM jobs")
    return int(count)


def test_migrating_again_changes_nothing(url: str, view: AuditView) -> None:
    shard = ViewShard()
    shard.command(job("a"))
    view.store(shard.batch())
    assert migrate(url) == []
    assert view.digest(0)[2] == 1


def test_a_new_generation_is_built_beside_and_flipped_at_once(
    view: AuditView, reads: Database
) -> None:
    shard = ViewShard()
    shard.command(job("a"))
    batch = shard.batch()
    view.store(batch)
    fresh = view.new_generation()
    assert fresh.generation == 2
    assert fresh.position(0) is None
    with pytest.raises(ViewBehind):
        view.flip(2)
    assert jobs_seen(reads) == 1, "readers see the old one meanwhile"
    fresh.store(batch)
    view.flip(2)
    shard.command(job("b"))
    later = shard.batch()
    with pytest.raises(ViewReplaced):
        view.store(later)
    with pytest.raises(ViewReplaced):
        fresh.store(later)
    assert view.position(0) == batch.stop, "it goes on with the generation that is live"
    view.store(later)
    assert jobs_seen(reads) == 2
    fresh.close()


def test_a_flip_can_be_taken_back_and_older_generations_go(
    view: AuditView, reads: Database
) -> None:
    shard = ViewShard()
    shard.command(job("a"))
    batch = shard.batch()
    view.store(batch)
    for number in (2, 3):
        fresh = view.new_generation()
        fresh.store(batch)
        fresh.close()
        view.flip(number)
    with reads.transaction() as session:
        kept = session.fetch("SELECT number, state FROM generations ORDER BY number")
        schemas = session.fetch("SELECT nspname FROM pg_namespace WHERE nspname ~ '^audit_g'")
    assert kept == [(2, "old"), (3, "live")]
    assert len(schemas) == 2
    view.flip(2)
    with reads.transaction() as session:
        assert find_live(session) == 2
    assert view.position(0) == batch.stop


def test_a_build_that_was_left_is_thrown_away_by_the_next(view: AuditView, reads: Database) -> None:
    left = view.new_generation()
    shard = ViewShard()
    shard.command(job("a"))
    batch = shard.batch()
    left.store(batch)
    fresh = view.new_generation()
    assert fresh.generation == 3, "a number is never used again"
    with reads.transaction() as session:
        found = session.fetch("SELECT number, state FROM generations ORDER BY number")
    assert found == [(1, "live"), (3, "building")]
    shard.command(job("b"))
    with pytest.raises(ViewReplaced):
        left.store(shard.batch())
    left.close()
    fresh.close()


def test_a_database_without_tables_is_said_to_be_so(server: PostgresServer) -> None:
    server.clear()
    view = AuditView(server.url)
    with pytest.raises(ViewUnavailable, match="serve audit"):
        view.position(0)
    view.close()
