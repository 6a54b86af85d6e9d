"""What the loaders must ask others: are settings right (of a destination, of a ready-made transformation), is an
expression right?

`workspace/` knows no destination, no transformation and no expression language (siblings never import one
another), so whoever wires the process passes these in.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mainstem.secret import Secret
from mainstem.workspace.errors import Problem


class ConfigCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a destination type says about the settings it was given."""

    known: bool = True
    """False: there is no such type."""
    names: tuple[str, ...] = ()
    """When `known` is False: the types there are, to suggest the nearest."""
    config: Any = None
    """The type's settings struct, when there is no error."""
    problems: tuple[Problem, ...] = ()
    """Errors and warnings; paths are relative to the settings (`url`, `headers[0].to`)."""
    secret_fields: frozenset[str] = frozenset()
    """Top-level settings that are secrets: kept as `Secret` in the snapshot."""


ConfigValidator = Callable[[str, Mapping[str, Any]], ConfigCheck]
"""Checks the settings of a type (upper case). Values may be `Secret`: see `revealed`. Never raises."""


class ReadyCheck(ConfigCheck, frozen=True, kw_only=True):
    """What a ready-made transformation says about the settings it was given."""

    edge: bool = False
    """Whether it may run in the gateway, before the log."""


ReadyValidator = Callable[[str, Mapping[str, Any]], ReadyCheck]
"""Checks the settings of a ready-made transformation by its name, as `ConfigValidator` does."""

ExpressionCheck = Callable[[str], str | None]
"""Returns what is wrong with a `where` expression, or None."""


class Checks(msgspec.Struct, frozen=True):
    """All of them, as passed to every loader."""

    config: ConfigValidator
    expression: ExpressionCheck
    ready: ReadyValidator


def revealed(value: Any) -> Any:
    """Return a copy of settings with every `Secret` as its text, for decoding into a settings struct."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        return {key: revealed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [revealed(item) for item in value]
    return value
