"""Queues, pools and nodes in the audit view: few rows, stored one by one in the log's order."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from infra.copy_rows import clean_text
from infra.postgres import Session, moment
from projections.audit_rows import FleetEvent
from schemas import events
from schemas.codec import to_plain


def store_fleet(session: Session, shard: int, fleet: list[tuple[int, FleetEvent]]) -> None:
    """Store (time in UTC microseconds, event) pairs."""
    for at, event in fleet:
        time = moment(at)
        if isinstance(event, events.QueueChanged):
            _put_queue(session, shard, time, event)
        elif isinstance(event, events.PoolChanged):
            _put_pool(session, shard, time, event)
        elif isinstance(event, events.NodeRegistered):
            _add_node(session, shard, time, event)
        else:
            _mark_nodes(session, shard, time, event)


def _put_queue(session: Session, shard: int, at: datetime, event: events.QueueChanged) -> None:
    texts = (event.pool, event.name, event.state.value, event.description, event.actor)
    defaults = json.dumps(_plain(to_plain(event.defaults)))
    session.execute(
        "INSERT INTO queues (shard, pool, name, state, description, actor, defaults,"
        " retries_per_hour, created_at, changed_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s::jsonb, %s, %s, %s)"
        " ON CONFLICT (shard, pool, name) DO UPDATE SET state = excluded.state,"
        " description = excluded.description, actor = excluded.actor,"
        " defaults = excluded.defaults, retries_per_hour = excluded.retries_per_hour,"
        " changed_at = excluded.changed_at",
        (shard, *map(clean_text, texts), defaults, event.retries_per_hour, at, at),
    )


def _put_pool(session: Session, shard: int, at: datetime, event: events.PoolChanged) -> None:
    texts = (event.name, event.description, event.actor)
    retries = (event.retries_on, event.tenant_retries_per_hour)
    session.execute(
        "INSERT INTO pools (shard, name, description, actor, retries_on, tenant_retries_per_hour,"
        " created_at, changed_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (shard, name) DO UPDATE SET description = excluded.description,"
        " actor = excluded.actor, retries_on = excluded.retries_on,"
        " tenant_retries_per_hour = excluded.tenant_retries_per_hour,"
        " changed_at = excluded.changed_at",
        (shard, *map(clean_text, texts), *retries, at, at),
    )


def _add_node(session: Session, shard: int, at: datetime, event: events.NodeRegistered) -> None:
    """An earlier incarnation of the name is lost by this, as the fold has it."""
    name = clean_text(event.node)
    session.execute(
        "UPDATE nodes SET lost_at = %s, lost_reason = 'registered again'"
        " WHERE shard = %s AND node = %s AND lost_at IS NULL",
        (at, shard, name),
    )
    session.execute(
        "INSERT INTO nodes (shard, node_no, node, pool, incarnation, address, cpu_milli,"
        " memory_mib, gpus, extras, labels, lease_s, registered_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb, %s::jsonb, %s::jsonb, %s, %s)",
        (
            shard,
            event.node_no,
            name,
            clean_text(event.pool),
            event.incarnation,
            clean_text(event.address),
            event.cpu_milli,
            event.memory_mib,
            _json(event.gpus),
            _json(event.extras),
            _json(event.labels),
            event.lease_s,
            at,
        ),
    )


def _mark_nodes(
    session: Session, shard: int, at: datetime, event: events.NodesDraining | events.NodesLost
) -> None:
    rows = [
        (at, clean_text(reason), shard, node_no)
        for node_no, reason in zip(event.node_nos, event.reasons, strict=True)
    ]
    if isinstance(event, events.NodesDraining):
        session.execute_many(
            "UPDATE nodes SET draining_at = %s, drain_reason = %s"
            " WHERE shard = %s AND node_no = %s",
            rows,
        )
        return
    session.execute_many(
        "UPDATE nodes SET lost_at = %s, lost_reason = %s WHERE shard = %s AND node_no = %s", rows
    )


def _json(values: tuple[Any, ...]) -> str:
    return json.dumps([_plain(item) for item in to_plain(values)])


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    # U+0000 as JSON writes it: `jsonb` takes it no more than text does.
    return {
        key: clean_text(value) if isinstance(value, str) else value for key, value in item.items()
    }
