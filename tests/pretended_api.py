"""Answers of an API that is not there, for tests of the command line and the Python client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

JOB_ID = "00010203-0405-8607-8809-0a0b0c0d0e0f"
OTHER_ID = "00010203-0405-8607-8809-ffffffffffff"
Handler = Callable[[httpx.Request], httpx.Response]


def accepted(job_id: str = JOB_ID) -> httpx.Response:
    url = f"/api/v1/jobs/{job_id}"
    body = {
        "id": job_id,
        "status": "pending",
        "position": "0-17",
        "cluster": "default",
        "queue": "default",
        "url": url,
        "logs_url": f"{url}/logs",
        "command_url": "/api/v1/commands/0-17",
    }
    return httpx.Response(201, json=body)


def job_body(status: str = "succeeded", **changes: Any) -> dict[str, Any]:
    task = {
        "task": 0,
        "node": "node-1",
        "incarnation": 3,
        "devices": [1],
        "placed_at": "2025-01-02T03:04:05Z",
        "started_at": "2025-01-02T03:04:05.5Z",
        "ended_at": "2025-01-02T03:04:07Z",
        "exit_code": 0,
        "failure": None,
        "message": "",
    }
    attempt = {key: task[key] for key in ("placed_at", "started_at", "ended_at")}
    attempt |= {"number": 1, "failure": None, "message": "", "tasks": [task]}
    body = {
        "id": JOB_ID,
        "status": status,
        "job_type": "training",
        "name": "[red]not markup[/red]",
        "cluster": "default",
        "queue": "research",
        "priority": 7,
        "attempt": 1,
        "retry_count": 0,
        "worker_id": "node-1",
        "submitted_at": "2025-01-02T03:04:04Z",
        "started_at": "2025-01-02T03:04:05.5Z",
        "ended_at": "2025-01-02T03:04:07Z",
        "due_at": None,
        "failure": None,
        "message": "",
        "logs_url": f"/api/v1/jobs/{JOB_ID}/logs",
        "queue_position": None,
        "tasks": 1,
        "gang": None,
        "resources": {"cpu_milli": 500, "memory_mib": 256, "gpu_milli": 1000, "extras": {}},
        "gpu_models": [],
        "node_selector": {},
        "timeout_seconds": 60,
        "start_timeout_seconds": 300,
        "grace_seconds": 30,
        "retry_policy": {
            "max_retries": 3,
            "backoff_seconds": 5,
            "backoff_multiplier": 2.0,
            "max_backoff_seconds": 3600,
        },
        "image": "",
        "command": ["python", "-m", "train"],
        "env": {},
        "config": {},
        "labels": {},
        "actor": "anonymous",
        "depends_on": [],
        "attempts": [attempt],
        "explain_url": f"/api/v1/jobs/{JOB_ID}/explain",
    }
    return body | changes


def refusal(status: int, code: str, message: str, field: str = "") -> httpx.Response:
    details = [{"field": field, "message": "must be 0 to 100"}] if field else []
    error = {"code": code, "message": message, "details": details, "request_id": "r-1"}
    return httpx.Response(status, json={"error": error})
