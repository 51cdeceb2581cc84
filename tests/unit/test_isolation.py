"""A stack of one's own sees no setting of the user, and gives them back afterwards."""

from __future__ import annotations

import os

import pytest

from foldline.isolation import own_directory

pytestmark = pytest.mark.unit


def test_settings_are_hidden_while_the_directory_is_ours_and_come_back_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOLDLINE_STACK_SHARDS", "7")
    monkeypatch.setenv("FOLDLINE_CONFIG", "/elsewhere.toml")

    with own_directory("test") as home:
        seen = {key for key in os.environ if key.startswith("FOLDLINE_")}
        assert seen == {"FOLDLINE_STACK_DATA_DIR"}
        assert home.is_dir()

    assert not home.exists()
    assert os.environ["FOLDLINE_STACK_SHARDS"] == "7"
    assert os.environ["FOLDLINE_CONFIG"] == "/elsewhere.toml"


def test_a_failure_inside_leaves_no_directory_behind() -> None:
    with pytest.raises(ValueError, match="inside"), own_directory("test") as home:
        raise ValueError("inside")

    assert not home.exists()
