"""What the demo submits, as the bodies that any user would send, and how each should end.

Sixty points of a hyper-parameter sweep, a gang of four, inference with the gang's model, and the
jobs that do not simply succeed. Pure: it sends nothing. `judge.py` holds the results to it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.terms import JobState

Body = dict[str, Any]

SVM_PENALTIES = (0.3, 3.0, 30.0)
SVM_GAMMAS = (0.01, 0.03, 0.1, 0.3)
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.8, 1.6)
MOMENTA = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)
GANG_MEMBERS = 4
GANG_PROGRESS_S = 60
"""An epoch takes a fraction of a second: a member that is silent for so long hangs."""
FLAKY_ATTEMPTS = 3
DOOMED_RETRIES = 1
SWEEP_JOBS = len(SVM_PENALTIES) * len(SVM_GAMMAS) + len(LEARNING_RATES) * len(MOMENTA)
TOTAL = SWEEP_JOBS + 7
"""The sweep, and one job each of the seven other kinds."""

SWEEP, GANG, INFERENCE = "sweep", "gang", "inference"
FLAKY, DOOMED, ENDLESS, GPU, PLAIN = "flaky", "doomed", "endless", "gpu", "plain"


@dataclass(frozen=True, slots=True)
class Planned:
    """One job of the demo: `kind` is its part in the story, `attempts` how many it should take."""

    kind: str
    body: Body
    ends_as: JobState = JobState.SUCCEEDED
    attempts: int = 1

    @property
    def name(self) -> str:
        """The job's name, unique within the demo."""
        return str(self.body["name"])


def task_env(shared: Path) -> dict[str, str]:
    """The environment of every job: where the gang leaves its model."""
    return {"DEMO_SHARED_DIR": str(shared)}


def module(name: str, *arguments: str) -> list[str]:
    """The argv that runs a workload of the demo."""
    return [sys.executable, "-m", f"foldline.demo.{name}", *arguments]


def plan(shared: Path) -> list[Planned]:
    """All jobs but the two that need an id (inference) or another way in (plain producer)."""
    env = task_env(shared)
    return [
        Planned(GANG, _gang(env)),
        Planned(ENDLESS, _body("endless", env, "trouble_job", ENDLESS), JobState.CANCELLED),
        Planned(FLAKY, _flaky(env), attempts=FLAKY_ATTEMPTS),
        Planned(DOOMED, _doomed(env), JobState.DEAD_LETTER, attempts=1 + DOOMED_RETRIES),
        Planned(GPU, {**_body("gpu", env, "gpu_job"), "resources": _resources(gpu=1)}),
        *(Planned(SWEEP, body) for body in sweep(env)),
    ]


def sweep(env: Mapping[str, str]) -> list[Body]:
    """One job for each point of both families: support-vector machines and small networks."""
    points: list[tuple[str, Body]] = [
        (f"svm-C{penalty:g}-g{gamma:g}", {"model": "svm", "C": penalty, "gamma": gamma})
        for penalty in SVM_PENALTIES
        for gamma in SVM_GAMMAS
    ]
    points += [
        (f"net-r{rate:g}-m{beta:g}", {"model": "network", "learning_rate": rate, "momentum": beta})
        for rate in LEARNING_RATES
        for beta in MOMENTA
    ]
    return [
        {
            **_body(f"{SWEEP}-{name}", env, "sweep_job", priority=20),
            "job_type": "training",
            "config": config,
        }
        for name, config in points
    ]


def inference(shared: Path, gang_job_id: str) -> Planned:
    """Batch inference that may start only when the gang has succeeded."""
    body = _body("inference", task_env(shared), "infer_job", priority=70)
    body["job_type"] = "inference"
    body["depends_on"] = [{"job_id": gang_job_id, "condition": "succeeded"}]
    return Planned(INFERENCE, body)


def _gang(env: Mapping[str, str]) -> Body:
    body = _body("gang", env, "gang_train", priority=80)
    body["job_type"] = "training"
    body["gang"] = {"enabled": True, "min_members": GANG_MEMBERS, "topology": "ring"}
    body["progress_timeout_seconds"] = GANG_PROGRESS_S
    return body


def _flaky(env: Mapping[str, str]) -> Body:
    body = _body("flaky", env, "trouble_job", FLAKY)
    body["retry_policy"] = {"max_retries": 3, "backoff_seconds": 1, "backoff_multiplier": 2}
    return body


def _doomed(env: Mapping[str, str]) -> Body:
    body = _body("doomed", env, "trouble_job", DOOMED)
    body["retry_policy"] = {"max_retries": DOOMED_RETRIES, "backoff_seconds": 1}
    return body


def _body(
    name: str, env: Mapping[str, str], workload: str, *arguments: str, priority: int = 50
) -> Body:
    return {
        "job_type": "simulation",
        "name": name,
        "priority": priority,
        "command": module(workload, *arguments),
        "env": dict(env),
        "resources": _resources(),
        "timeout_seconds": 120,
    }


def _resources(gpu: int = 0) -> Body:
    return {"cpu": "1", "memory": "512Mi", "gpu": gpu}
