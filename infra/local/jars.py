"""Kafka's jars: exactly the files of `kafka_jars.json`, each checked against its SHA-256.

`jars()` downloads what the cache lacks, through jgo, from the Maven repository, and never runs
a file whose hash is not the committed one. `python -m infra.local.jars` resolves the
release anew and rewrites the lock file. The only file that imports jgo.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import file_digest
from pathlib import Path

from jgo.maven import MavenContext
from jgo.parse import Coordinate

LOCK_FILE = Path(__file__).with_name("kafka_jars.json")
KAFKA = "org.apache.kafka:kafka_2.13:4.4.0"
EXTRAS = ["org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"]
"""Kafka speaks to SLF4J; without this binding to its own log4j it would log nothing."""
DOWNLOADS = 8
TIMEOUT_S = 60


class JarsUnavailable(Exception):
    """A jar cannot be had, or is not the one that was committed. Nothing of it was run."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One file of the lock: Maven coordinates and the SHA-256 of its bytes."""

    group: str
    artifact: str
    version: str
    sha256: str


def jars(progress: Callable[[str], None]) -> list[Path]:
    """The paths of every jar, downloaded and checked. Raises `JarsUnavailable`."""
    wanted = [Jar(**entry) for entry in json.loads(LOCK_FILE.read_text())]
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    with _alone_in(cache):
        context = MavenContext(repo_cache=cache, timeout=TIMEOUT_S)
        missing = [jar for jar in wanted if not _is_good(_path(cache, jar), jar)]
        if missing:
            progress(f"downloading {len(missing)} of {len(wanted)} jars of Kafka")
            with ThreadPoolExecutor(DOWNLOADS) as pool:
                list(pool.map(lambda jar: _fetch(context, jar), missing))
    return [_path(cache, jar) for jar in wanted]


def cache_dir() -> Path:
    """Where jars are kept for every data directory of this user; any of it may be deleted."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "foldline" / "maven"


def _fetch(context: MavenContext, jar: Jar) -> None:
    path = _path(context.repo_cache, jar)
    path.unlink(missing_ok=True)
    component = context.project(jar.group, jar.artifact).at_version(jar.version)
    name = f"{jar.group}:{jar.artifact}:{jar.version}"
    try:
        component.artifact().resolve()
    except (OSError, RuntimeError) as error:
        raise JarsUnavailable(
            f"{name} cannot be downloaded ({error}): look at the way to the Maven repository, or "
            "use a Kafka that is there already with FOLDLINE_STACK_KAFKA_BOOTSTRAP"
        ) from error
    if not _is_good(path, jar):
        path.unlink(missing_ok=True)
        raise JarsUnavailable(f"{name} is not the file that was committed: its SHA-256 differs")


def _path(cache: Path, jar: Jar) -> Path:
    folder = cache.joinpath(*jar.group.split("."), jar.artifact, jar.version)
    return folder / f"{jar.artifact}-{jar.version}.jar"


def _is_good(path: Path, jar: Jar) -> bool:
    return path.exists() and _sha256(path) == jar.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


@contextmanager
def _alone_in(cache: Path) -> Iterator[None]:
    """Two starts at once must not write the same file."""
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def resolve(release: str, extras: list[str]) -> list[Jar]:
    """What the release needs at run time, by its own word, and the extras alone."""
    context = MavenContext(repo_cache=cache_dir(), timeout=TIMEOUT_S)
    asked = [
        context.create_dependency(replace(Coordinate.parse(one), scope="compile"))
        for one in (release, *extras)
    ]
    inputs, others = context.resolver.resolve(asked[:1])
    needed = [*inputs, *(one for one in others if one.scope in ("compile", "runtime")), *asked[1:]]
    found = []
    for one in sorted(needed, key=lambda one: (one.groupId, one.artifactId)):
        path = one.artifact.resolve()
        found.append(Jar(one.groupId, one.artifactId, one.version, _sha256(path)))
    return found


def main() -> int:
    """Rewrite the lock file."""
    found = resolve(KAFKA, EXTRAS)
    LOCK_FILE.write_text(json.dumps([asdict(jar) for jar in found], indent=1) + "\n")
    print(f"{LOCK_FILE}: {len(found)} jars")
    return 0


if __name__ == "__main__":
    sys.exit(main())
