"""What a task finds around it: directories and environment variables. Pure.

Gang members get what torchrun would set. The spec's own variables win over what is inherited, and
Foldline's win over those, so that a spec cannot move a task to another job's directories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.executor import Rendezvous, TaskKey, TaskOrder
from workers.options import AgentOptions
from workers.progress import FILE_NAME, FILE_VARIABLE

INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
"""All that a task takes from the agent's own environment."""
MILLI = 1000


@dataclass(frozen=True, slots=True)
class Places:
    """A task's directories: `work` goes when it ends, `output` is the attempt's, `checkpoint` the
    job's. `progress` is the file that the task touches.
    """

    work: Path
    output: Path
    checkpoint: Path

    @property
    def progress(self) -> Path:
        """Where the task reports that it gets on."""
        return self.work / FILE_NAME


def places(options: AgentOptions, order: TaskOrder) -> Places:
    """Where a task works and writes."""
    shared = options.shared_dir or options.data_dir
    _, attempt, task = order.key
    return Places(
        work=options.data_dir / "work" / f"{order.job_id}.{attempt}.{task}",
        output=shared / "outputs" / order.job_id / str(attempt),
        checkpoint=shared / "checkpoints" / order.job_id,
    )


def task_environment(
    options: AgentOptions,
    order: TaskOrder,
    rendezvous: Rendezvous | None,
    inherited: Mapping[str, str],
) -> dict[str, str]:
    """Every variable of a task, by name."""
    where = places(options, order)
    variables = {name: inherited[name] for name in INHERITED if name in inherited}
    variables["PYTHONUNBUFFERED"] = "1"  # so that lines reach the log when they are written
    variables["OMP_NUM_THREADS"] = str(max(1, order.cpu_milli // MILLI))
    variables.update(order.env)
    variables.update(
        FOLDLINE_JOB_ID=order.job_id,
        FOLDLINE_ATTEMPT=str(order.key.attempt),
        FOLDLINE_TASK=str(order.key.task),
        FOLDLINE_NODE=options.node,
        FOLDLINE_CONFIG_JSON=order.config,
        FOLDLINE_CHECKPOINT_DIR=str(where.checkpoint),
        FOLDLINE_OUTPUT_DIR=str(where.output),
        CUDA_VISIBLE_DEVICES=",".join(map(str, order.devices)),
    )
    variables[FILE_VARIABLE] = str(where.progress)
    if rendezvous is not None:
        variables.update(_torchrun(order.key, order.tasks, rendezvous))
    return variables


def _torchrun(key: TaskKey, world_size: int, rendezvous: Rendezvous) -> dict[str, str]:
    host, _, port = rendezvous.endpoint.rpartition(":")
    return {
        "RANK": str(key.task),
        "LOCAL_RANK": str(rendezvous.local_rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
    }
