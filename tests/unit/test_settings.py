"""Settings come from variables, one file and defaults; what nobody reads is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.settings import (
    AgentSettings,
    ApiSettings,
    EngineSettings,
    KafkaSettings,
    PostgresSettings,
    SettingsError,
    StackSettings,
    environment,
    load,
    running_path,
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine that runs the tests."""
    monkeypatch.delenv("FOLDLINE_CONFIG", raising=False)
    monkeypatch.setenv("FOLDLINE_STACK_DATA_DIR", str(tmp_path))


def test_a_variable_wins_over_the_file_and_the_file_over_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load(ApiSettings).port == 8080
    (tmp_path / "foldline.toml").write_text("[api]\nport = 8181\nmin_position_wait_s = 1.5\n")
    assert load(ApiSettings).port == 8181
    monkeypatch.setenv("FOLDLINE_API_PORT", "8282")
    assert load(ApiSettings).port == 8282
    assert load(ApiSettings).min_position_wait_s == 1.5


def test_a_running_stack_is_found_by_what_it_wrote_down(tmp_path: Path) -> None:
    running_path().parent.mkdir()
    running_path().write_text('[postgres]\ndsn = "postgresql://there/x"\n')
    assert load(PostgresSettings).dsn == "postgresql://there/x"
    (tmp_path / "foldline.toml").write_text('[postgres]\ndsn = "postgresql://mine/x"\n')
    assert load(PostgresSettings).dsn == "postgresql://mine/x"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("FOLDLINE_API_PROT", "1", "nothing reads it"),
        ("FOLDLINE_APPI_PORT", "1", "there is no room APPI"),
        ("FOLDLINE_API_PORT", "http", "FOLDLINE_API_PORT"),
        ("FOLDLINE_API_PORT", "70000", "less than or equal to 65535"),
        ("FOLDLINE_API_HOST", "0.0.0.0", "127.0.0.1"),
        ("FOLDLINE_KAFKA_ACKS", "1", "is refused: always all"),
        ("FOLDLINE_KAFKA_LINGER_MS", "5", "is refused: always 0"),
        ("FOLDLINE_AGENT_MARGIN_S", "0", "is refused: follows from lease_s"),
    ],
)
def test_a_wrong_variable_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load(ApiSettings)
    assert variable in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[apii]\nport = 1\n", "there is no room [apii]"),
        ("[api]\nprot = 1\n", "nothing reads it"),
        ("[kafka]\nenable_idempotence = false\n", "is refused: always on"),
        ("[api\n", "cannot be read as TOML"),
        ("api = 3\n", "must be a table"),
    ],
)
def test_a_wrong_line_of_the_file_is_named_with_the_reason(
    tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "foldline.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(ApiSettings)
    assert says in str(caught.value)
    assert "foldline.toml" in str(caught.value)


def test_a_file_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOLDLINE_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(SettingsError) as caught:
        load(EngineSettings)
    assert "does not exist" in str(caught.value)


def test_what_tasks_and_tests_are_told_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FOLDLINE_JOB_ID", "FOLDLINE_CONFIG_JSON", "FOLDLINE_TEST_SERVERS"):
        monkeypatch.setenv(name, "x")
    assert load(EngineSettings) == EngineSettings()


def test_a_heartbeat_that_could_end_its_lease_is_refused() -> None:
    with pytest.raises(ValueError, match="at most a third of lease_s"):
        AgentSettings(lease_s=10, heartbeat_s=4)


def test_signs_of_life_so_rare_that_one_lost_ends_an_ownership_are_refused() -> None:
    with pytest.raises(ValueError, match="one lost sign must not end an ownership"):
        EngineSettings(sign_every_s=0.6, takeover_after_s=1.5)


def test_two_servers_cannot_share_a_port() -> None:
    with pytest.raises(ValueError, match="give one another port"):
        StackSettings(kafka_port=9000, valkey_port=9000)


def test_a_child_process_loads_exactly_what_its_parent_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stack = StackSettings(data_dir=tmp_path, agents=4, redis_url="redis://there/3")
    agent = AgentSettings(node="node-7", labels={"zone": "a b"}, gpus=3, heartbeat_s=1.25)
    for name, value in environment(stack, agent, KafkaSettings()).items():
        monkeypatch.setenv(name, value)
    assert load(StackSettings) == stack
    assert load(AgentSettings) == agent
    assert load(AgentSettings).data_dir == tmp_path / "agents" / "node-7"


def test_secrets_are_not_shown_when_settings_are() -> None:
    assert "hunter2" not in repr(PostgresSettings(dsn="postgresql://postgres:hunter2@there/x"))
