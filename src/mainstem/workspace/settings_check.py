"""Checks one destination's settings through its type, and makes the secrets among them `Secret`."""

from collections.abc import Iterable, Mapping
from typing import Any

from mainstem.secret import Secret
from mainstem.workspace.checks import Checks, ConfigCheck
from mainstem.workspace.report import Report


def check_settings(checks: Checks, type_name: str, raw: Mapping[str, Any], report: Report) -> ConfigCheck:
    """Ask the type about its settings; whatever it says, no secret shows in a message."""
    for value in raw.values():
        _hide_secrets(value, report)
    check = checks.config(type_name, raw)
    for name in check.secret_fields:
        report.hide_all(raw.get(name))
    return check


def with_secrets(raw: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the settings with each text below one of `names` as a `Secret`."""
    secret = frozenset(names)
    return {key: _wrapped(value) if key in secret else value for key, value in raw.items()}


def _wrapped(value: Any) -> Any:
    if isinstance(value, str):
        return Secret(value)
    if isinstance(value, Mapping):
        return {key: _wrapped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_wrapped(item) for item in value]
    return value


def _hide_secrets(value: Any, report: Report) -> None:
    if isinstance(value, Secret):
        report.hide(value.reveal())
    elif isinstance(value, Mapping):
        for item in value.values():
            _hide_secrets(item, report)
    elif isinstance(value, list | tuple):
        for item in value:
            _hide_secrets(item, report)
