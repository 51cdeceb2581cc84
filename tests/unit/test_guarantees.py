"""The page of promises names tests and pages that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "guarantees.md").read_text()


def test_every_test_that_the_promises_name_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE))
    assert len(named) > 20
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_every_promise_says_what_holds_it_and_what_it_does_not_cover() -> None:
    promises = PAGE.split("\n## ")[1:]
    assert len(promises) > 5
    for promise in promises:
        title = promise.splitlines()[0]
        assert "**Held by**" in promise, title
        assert "**Does not cover**" in promise, title


def test_every_page_that_the_promises_point_to_exists() -> None:
    pages = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert pages
    assert [page for page in pages if not (ROOT / "docs" / page).exists()] == []
