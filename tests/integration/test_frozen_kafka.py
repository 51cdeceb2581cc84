"""A broker that stood still for longer than its own session, as a suspended host does: every client
goes on by itself once it is back."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from infra.kafka import KafkaUnavailable, Reader, Sender, ensure_topics
from infra.local.stack import LocalServers, free_settings, local_servers
from schemas.topics import COMMANDS, LOG
from tests.live_stack import wait_until

FREEZE_S = 10.0
"""Longer than the nine seconds after which a controller fences a broker that it does not hear."""
FITS = 40
READERS = 10
WITHIN_S = 20.0


@pytest.fixture
def kafka(stack_dir: Path) -> Iterator[LocalServers]:
    settings = free_settings(stack_dir).model_copy(
        update={"postgres_dsn": "not used", "redis_url": "not used"}
    )
    with local_servers(settings) as running:
        ensure_topics(running.addresses.bootstrap, shards=2)
        yield running


def freeze(kafka: LocalServers, readers: list[Reader]) -> None:
    """Stop the broker while everyone asks it, then let it wake in fits and starts: for a while all
    see a broker that is fenced, whose metadata names no broker."""
    pid = kafka.one("kafka").pid()
    assert pid is not None
    is_over = Event()

    def ask(reader: Reader) -> None:
        while not is_over.is_set():
            with contextlib.suppress(KafkaUnavailable):
                reader.end_offset(LOG.name, 1)

    threads = [Thread(target=ask, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(FREEZE_S)
        for _ in range(FITS):
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.015)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.12)
    finally:
        os.kill(pid, signal.SIGCONT)
        is_over.set()
        for thread in threads:
            thread.join()


def test_readers_and_senders_go_on_after_kafka_stood_still_until_it_was_fenced(
    kafka: LocalServers,
) -> None:
    bootstrap = kafka.addresses.bootstrap
    sender, readers = Sender(bootstrap), [Reader(bootstrap) for _ in range(READERS)]
    offsets: list[int | None] = []

    def send() -> bool:
        """Whether one more record is acknowledged."""
        sent: list[int | None] = []
        sender.send(
            COMMANDS.name, b"x", partition=0, on_result=lambda offset, _: sent.append(offset)
        )

        def is_known() -> bool:
            sender.poll(0.1)
            return bool(sent)

        wait_until("an outcome", is_known, WITHIN_S)
        offsets.extend(sent)
        return sent[0] is not None

    def has_read(reader: Reader) -> bool:
        reader.poll(0.2)
        try:
            end = reader.end_offset(COMMANDS.name, 0)
            return reader.end_offset(LOG.name, 1) == 0 and reader.position(COMMANDS.name, 0) == end
        except KafkaUnavailable:
            return False

    try:
        for reader in readers:
            reader.assign({(COMMANDS.name, 0): 0})
        assert send()
        for reader in readers:
            wait_until("the first record is read", lambda: has_read(reader), WITHIN_S)  # noqa: B023 - called at once
        freeze(kafka, readers)
        wait_until("records are taken again", send, WITHIN_S)
        for reader in readers:
            wait_until("they are read again", lambda: has_read(reader), WITHIN_S)  # noqa: B023 - the same
            assert reader.position(COMMANDS.name, 0) >= 2
    finally:
        sender.close()
        for reader in readers:
            reader.close()
