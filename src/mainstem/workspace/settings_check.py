"""Checks one destination's settings through its type, and makes the secrets among them `Secret`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

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
    """Return the settings with each text at or below one of `names` as a `Secret`.

    `headers.to` means the `to` of `headers`, or of each item of that list, as RudderStack writes it; `headers.*`
    every value of `headers` where it is a mapping.
    """
    made: Any = dict(raw)
    for name in names:
        made = _marked(made, name.split("."))
    return cast("dict[str, Any]", made)


def _marked(value: Any, parts: Sequence[str]) -> Any:
    if isinstance(value, str) and not parts:
        return Secret(value)
    if isinstance(value, list | tuple) and parts != ["*"]:
        return [_marked(item, parts) for item in value]
    if isinstance(value, Mapping):
        rest = parts[1:]
        return {
            key: _marked(item, rest) if not parts or parts[0] in (key, "*") else item
            for key, item in value.items()
        }
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
