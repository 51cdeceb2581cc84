"""The demo's workloads as a task runs them, and the judge that must notice when they go wrong.

Each is a process with the environment that an agent gives it; no server is needed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldline.demo.allreduce import join_gang
from foldline.demo.jobs import GANG_MEMBERS, SWEEP, module, plan
from foldline.demo.judge import RESULT_MARK, results_in
from foldline.demo.network import initial_weights, loss_and_gradient
from foldline.demo.plain_producer import encode
from ingest.requests import JobBody
from schemas.codec import decode_submission, schema_ids
from schemas.derive import AVRO_DIR

pytestmark = pytest.mark.e2e

WITHIN_S = 60


def start(command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    variables = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=WITHIN_S)
    return process.returncode, output


def run(command: list[str], **environment: str) -> tuple[int, tuple[dict[str, Any], ...]]:
    code, output = finish(start(command, environment))
    return code, results_in(output)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_gang_of_four_processes_trains_one_model_that_inference_can_use(tmp_path: Path) -> None:
    rendezvous = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(GANG_MEMBERS),
        "DEMO_SHARED_DIR": str(tmp_path),
    }
    members = [
        start(module("gang_train"), {**rendezvous, "RANK": str(rank)})
        for rank in reversed(range(GANG_MEMBERS))
    ]
    ends = [finish(member) for member in members]
    results = [result for _, output in ends for result in results_in(output)]

    assert [code for code, _ in ends] == [0] * GANG_MEMBERS
    assert sorted(result["rank"] for result in results) == list(range(GANG_MEMBERS))
    assert len({result["weights_sha256"] for result in results}) == 1
    assert sum(result["images"] for result in results) == 1347
    assert results[0]["accuracy"] > 0.93

    code, scored = run(module("infer_job"), DEMO_SHARED_DIR=str(tmp_path))
    assert code == 0
    assert scored[0]["accuracy"] == results[0]["accuracy"]
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + scored[0]["images"]


def test_the_sum_over_a_gang_is_the_same_to_the_last_bit_on_all_members() -> None:
    size, port = 3, free_port()
    parts = [np.random.default_rng(rank).normal(size=(7, 5)) for rank in range(size)]

    def member(rank: int) -> bytes:
        with join_gang(rank, size, "127.0.0.1", port) as gang:
            first = gang.sum(parts[rank])
            return gang.sum(first).tobytes()

    with ThreadPoolExecutor(size) as pool:
        sums = list(pool.map(member, range(size)))

    expected = (parts[0] + parts[1] + parts[2]) * 3
    assert len(set(sums)) == 1
    np.testing.assert_allclose(np.frombuffer(sums[0]).reshape(7, 5), expected)


def test_a_member_that_leaves_ends_the_others_instead_of_leaving_them_waiting() -> None:
    port = free_port()
    left = threading.Event()

    def leaver() -> None:
        with join_gang(1, 2, "127.0.0.1", port):
            left.set()

    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(leaver)
        with join_gang(0, 2, "127.0.0.1", port) as gang:
            leaving.result(timeout=WITHIN_S)
            assert left.is_set()
            with pytest.raises(ConnectionError):
                gang.sum(np.ones(4))


def test_the_network_computes_the_gradient_of_its_loss() -> None:
    weights = initial_weights(1)
    draw = np.random.default_rng(2)
    images, labels = draw.random((6, 64)), draw.integers(0, 10, 6)
    _, gradient = loss_and_gradient(weights, images, labels)

    for place in (0, 1000, len(weights) - 3):
        step = np.zeros_like(weights)
        step[place] = 1e-6
        above, _ = loss_and_gradient(weights + step, images, labels)
        below, _ = loss_and_gradient(weights - step, images, labels)
        assert (above - below) / 2e-6 == pytest.approx(gradient[place], rel=1e-4, abs=1e-6)


def test_a_point_of_the_sweep_is_fitted_and_scored_on_the_digits() -> None:
    config = json.dumps({"model": "svm", "C": 10, "gamma": 0.1})
    code, results = run(module("sweep_job"), FOLDLINE_CONFIG_JSON=config)

    assert code == 0
    assert results[0]["accuracy"] > 0.95
    assert results[0]["C"] == 10


def test_the_other_family_of_the_sweep_trains_the_small_network() -> None:
    config = json.dumps({"model": "network", "learning_rate": 0.2, "momentum": 0.9})
    code, results = run(module("sweep_job"), FOLDLINE_CONFIG_JSON=config)

    assert code == 0
    assert results[0]["accuracy"] > 0.95


def test_the_gpu_job_names_the_device_that_it_was_given() -> None:
    code, results = run(module("gpu_job"), CUDA_VISIBLE_DEVICES="1")

    assert (code, results[0]["devices"]) == (0, "1")


@pytest.mark.parametrize(("attempt", "expected"), [("1", 1), ("2", 1), ("3", 0)])
def test_the_flaky_job_fails_on_its_first_two_attempts_only(attempt: str, expected: int) -> None:
    code, results = run(module("trouble_job", "flaky"), FOLDLINE_ATTEMPT=attempt)

    assert code == expected
    assert len(results) == 1 - expected


def test_the_doomed_job_fails_on_every_attempt() -> None:
    assert run(module("trouble_job", "doomed"), FOLDLINE_ATTEMPT="9") == (3, ())


def test_the_endless_job_leaves_in_order_when_it_is_told_to_stop() -> None:
    process = start(module("trouble_job", "endless"), {"PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)

    assert code == 0
    assert results_in(output)[0]["stopped"] == "SIGTERM"


def test_every_planned_job_is_a_body_that_the_api_takes(tmp_path: Path) -> None:
    planned = plan(tmp_path)

    for one in planned:
        JobBody.model_validate(one.body)
    assert sum(one.kind == SWEEP for one in planned) == 60
    assert len({one.name for one in planned}) == len(planned)


SUBMISSIONS = [
    (key, version) for key, (name, version) in schema_ids().items() if name == "SubmitJob"
]


@pytest.mark.parametrize(("schema_id", "version"), SUBMISSIONS)
def test_what_the_plain_producer_encodes_is_a_submission_like_any_other(
    schema_id: int, version: int
) -> None:
    record = {
        "terms": {"pool": "default", "cpu_milli": 500},
        "idempotency_key": "k",
        "priority": 9,
        "depends_on": [],
        "key_id": 0,
        "actor": "plain-producer",
        "spec": {"job_type": "training", "command": [sys.executable]},
    }
    data = encode(AVRO_DIR / f"SubmitJob.v{version}.avsc", schema_id, record)
    submission = decode_submission(data)

    assert submission.terms.cpu_milli == 500
    assert submission.terms.timeout_s == -1
    assert submission.idempotency_key == "k"


def test_results_are_found_in_logs_whatever_stands_before_them() -> None:
    log = f'starting\n{RESULT_MARK}{{"a": 1}}\n[0/2] {RESULT_MARK}{{"a": 2}}\nRESULTS none\n'

    assert results_in(log) == ({"a": 1}, {"a": 2})
