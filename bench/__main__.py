"""`python -m bench` lists the measurements with what each of them says."""

from __future__ import annotations

import ast
from pathlib import Path

NO_BENCHES = frozenset(
    {
        "__init__",
        "__main__",
        "deep_log",
        "engine_processes",
        "figures",
        "load",
        "machine",
        "paper_node",
        "watch",
    }
)


def main() -> None:
    """One line a measurement: its command and the first line of its docstring."""
    print("Measurements (each takes --help):\n")
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem in NO_BENCHES:
            continue
        said = ast.get_docstring(ast.parse(path.read_text())) or ""
        print(f"  python -m bench.{path.stem:<20} {said.splitlines()[0]}")
    print("\nResults that were kept are in bench/results, with the machine that they are from.")


if __name__ == "__main__":
    main()
