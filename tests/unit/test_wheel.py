"""What is installed elsewhere: the wheel holds every room with its data files, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {
    "foldline",
    "infra",
    "ingest",
    "projections",
    "schemas",
    "stream_processors",
    "workers",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive


def test_the_wheel_holds_every_room_and_no_other_package(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == ROOMS


def test_every_data_file_of_a_room_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    kinds = {".avsc", ".json", ".lua", ".sql", ".toml", ".typed", ".yaml"}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.suffix in kinds and "infra/deploy/" not in path.as_posix()
    }
    assert wanted
    assert any(name.endswith(".avsc") for name in wanted)
    assert any(name.endswith(".sql") for name in wanted)
    assert wanted <= set(wheel.namelist())


def test_deployment_files_and_tests_are_not_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    assert not [name for name in wheel.namelist() if name.startswith(("infra/deploy/", "tests/"))]


def test_the_command_line_is_the_only_script(wheel: zipfile.ZipFile) -> None:
    (entry,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    with zipfile.ZipFile(str(wheel.filename)) as archive:
        text = archive.read(entry).decode()
    assert text.split() == ["[console_scripts]", "foldline", "=", "foldline.cli:main"]
