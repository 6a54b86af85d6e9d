"""Checks settings through whoever knows them (a destination's type, a ready-made transformation), and makes the
secrets among them `Secret`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from mainstem.secret import Secret
from mainstem.workspace.checks import ConfigCheck
from mainstem.workspace.report import Report

Check = TypeVar("Check", bound=ConfigCheck)


def check_settings(
    validator: Callable[[str, Mapping[str, Any]], Check], name: str, raw: Mapping[str, Any], report: Report
) -> Check:
    """Ask `name` about its settings; whatever it says, no secret shows in a message."""
    for value in raw.values():
        hide_secrets(value, report)
    check = validator(name, raw)
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


def hide_secrets(value: Any, report: Report) -> None:
    """Never show a text that is a `Secret` anywhere in `value`."""
    if isinstance(value, Secret):
        report.hide(value.reveal())
    elif isinstance(value, Mapping):
        for item in value.values():
            hide_secrets(item, report)
    elif isinstance(value, list | tuple):
        for item in value:
            hide_secrets(item, report)
