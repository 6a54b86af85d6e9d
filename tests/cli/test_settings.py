"""Where settings come from, which wins, and what is said when one is wrong."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstem.errors import SettingsError
from mainstem.secret import Secret
from mainstem.settings import KEYS, describe, load_settings, settings_from_json, settings_to_json


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(*args: Any, **kwargs: Any) -> Any:
    kwargs.setdefault("environ", {})
    return load_settings(*args, **kwargs)


def test_later_sources_win(tmp_path: Path) -> None:
    assert load().port == 8080
    (tmp_path / "mainstem.toml").write_text('port = 1\nhost = "h1"\ndata_dir = "toml"\nworkers = 2\n')
    assert load().port == 1
    other = tmp_path / "other.toml"
    other.write_text("port = 2\n")
    assert load(environ={"MAINSTEM_SETTINGS": str(other)}).port == 2
    assert load(environ={"MAINSTEM_SETTINGS": "missing.toml"}, settings_file=str(other)).port == 2
    env = {"MAINSTEM_PORT": "3", "MAINSTEM_HOST": "h2", "MAINSTEM_WORKERS": "3", "PATH": "x"}
    found = load({"port": 5, "host": None}, environ=env, pairs=["port=4", "workers=4"])
    assert (found.port, found.host, found.workers, found.data_dir) == (5, "h2", 4, "toml")


def test_texts_become_values_of_the_right_type() -> None:
    env = {
        "MAINSTEM_ALLOW_PRIVATE_DESTINATIONS": "Yes",
        "MAINSTEM_TRUSTED_PROXIES": "10.0.0.0/8, 192.168.0.0/16",
        "MAINSTEM_WORKSPACE_POLL_S": "0.5",
        "MAINSTEM_WORKSPACE_TOKEN": "t0ken",
        "MAINSTEM_LOG_LEVEL": "debug",
    }
    found = load(environ=env)
    assert found.allow_private_destinations is True
    assert found.trusted_proxies == ("10.0.0.0/8", "192.168.0.0/16")
    assert found.workspace_poll_s == 0.5
    assert found.workspace_token == Secret("t0ken")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"environ": {"MAINSTEM_PROT": "1"}},
            "environment MAINSTEM_PROT: no such setting; did you mean `port`?",
        ),
        ({"environ": {"MAINSTEM_PORT": "many"}}, "environment MAINSTEM_PORT: `many` is not a whole number"),
        ({"environ": {"MAINSTEM_DRAIN_TIMEOUT_S": "x"}}, "MAINSTEM_DRAIN_TIMEOUT_S: `x` is not a number"),
        ({"environ": {"MAINSTEM_ALLOW_PRIVATE_DESTINATIONS": "maybe"}}, "`maybe` is neither true nor false"),
        ({"environ": {"MAINSTEM_LOG_LEVEL": "loud"}}, "log_level"),
        ({"pairs": ["gateway=2"]}, "--set gateway=2: write it as KEY=VALUE; did you mean `gateways`?"),
        ({"pairs": ["workers"]}, "--set workers: write it as KEY=VALUE"),
        ({"pairs": ["port=x"]}, "--set port: `x` is not a whole number"),
        ({"pairs": ["port=70000"]}, "port"),
        ({"overrides": {"workers": 0}}, "workers"),
        ({"settings_file": "missing.toml"}, "settings file missing.toml: No such file or directory"),
    ],
)
def test_what_is_wrong_is_named_with_its_origin(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**given)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", "`prot`: no such setting; did you mean `port`?"),
        ("port = ", "settings file mainstem.toml: "),
        ("port = 'x'", "port"),
        ("port = 1\nport = 2", "settings file mainstem.toml: "),
    ],
)
def test_what_is_wrong_in_the_file_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mainstem.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load()
    assert words in str(caught.value)


def test_secrets_are_hidden_but_reach_a_child() -> None:
    found = load(environ={"MAINSTEM_WORKSPACE_TOKEN": "t0ken"})
    assert "t0ken" not in repr(found)
    again = settings_from_json(settings_to_json(found))
    assert again == found
    assert again.workspace_token.reveal() == "t0ken"
    with pytest.raises(SettingsError) as caught:
        load(environ={"MAINSTEM_WORKSPACE_TOKEN": "t0ken", "MAINSTEM_PORT": "-1"})
    assert "t0ken" not in str(caught.value)


def test_every_setting_is_described() -> None:
    assert all(describe(key) for key in KEYS)
    assert msgspec.structs.asdict(load()).keys() == set(KEYS)
