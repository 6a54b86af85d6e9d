"""The mapping of one destination: its settings, compiled; per event where they refer to the event.

plan -> **mapping** -> payloads. Pure. A setting may be a reference to the event, `{{ context.traits.key || none }}`
(RudderStack's dynamic configuration): then settings are filled in, checked and compiled for each event, the last
few kept, and what a reference took is not sent along again. `testing.conformance` maps by this class too, so that
what is tested is what runs.
"""

import re
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

import msgspec

from mainstem.destinations.base import Call, DestinationSpec, MapContext, Mapped, Mapper, Refusal
from mainstem.destinations.catalog import check_config
from mainstem.destinations.kit.paths import literal
from mainstem.destinations.kit.values import get, present
from mainstem.destinations.schemas import Check, compile_check
from mainstem.events.canonical import Event

Json = Any

_REFERENCE: Final = re.compile(r"\s*\{\{\s*([^{}|]+?)\s*\|\|\s*([^{}]*?)\s*\}\}\s*")
"""A whole text that is one reference with a default. Anything else between braces is the destination's own."""
_KEPT: Final = 256
"""Compiled settings kept of a destination whose settings refer to the event."""


class CompiledMapping:
    """What a destination makes of each event, whatever is in it: never raises."""

    __slots__ = ("_check", "_dynamic", "_fixed", "_kept", "_raw", "_spec")

    def __init__(
        self,
        spec: DestinationSpec,
        config: Any,
        raw: Mapping[str, Any] | None = None,
        *,
        validate: bool = False,
    ) -> None:
        """
        Args:
            raw: the settings as configured, which may hold references.
            validate: whether requests are checked against the vendor's schemas.

        Raises:
            Exception: the mapping does not accept the settings.
        """
        assert spec.mapper is not None  # noqa: S101 - files have no mapping
        self._spec = spec
        self._raw = raw or {}
        self._kept: OrderedDict[bytes, tuple[Mapper | None, Refusal]] = OrderedDict()
        # Those that read templates themselves (webhook, http) are compiled once in any case.
        self._dynamic = not spec.own_templates and _refers(self._raw)
        self._check = compile_check(spec) if validate else None
        self._fixed = None if self._dynamic else spec.mapper(config)

    def __call__(self, event: Event, context: MapContext) -> Mapped:
        """Map one event."""
        try:
            mapped = self._by_event(event, context) if self._fixed is None else self._fixed(event, context)
            return mapped if self._check is None else self._checked(mapped, self._check)
        except MemoryError:
            raise  # the machine's trouble, not the event's
        except Exception as error:  # noqa: BLE001 - a bug in one mapping must not stop the loop, nor lose the event
            return Refusal(_mapping_failed(self._spec.name, error))

    def _checked(self, mapped: Mapped, check: Check) -> Mapped:
        for payload in mapped if isinstance(mapped, tuple) else ():
            problem = check(payload) if isinstance(payload, Call) else None
            if problem:
                return Refusal(problem)
        return mapped

    def _by_event(self, event: Event, context: MapContext) -> Mapped:
        taken: list[str] = []
        filled = _filled(self._raw, event.message, taken)
        key = msgspec.json.encode(_shown(filled))
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self._compiled(filled)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        mapper, refusal = found
        if mapper is None:
            return refusal
        message = event.message
        for path in taken:
            message = _without(message, path.split("."))
        return mapper(msgspec.structs.replace(event, message=message), context)

    def _compiled(self, raw: Mapping[str, Any]) -> tuple[Mapper | None, Refusal]:
        checked = check_config(self._spec.name, raw)
        if checked.errors:
            path, text = checked.errors[0]
            return None, Refusal(f"the settings made for this event are wrong: `{path}` {text}")
        assert self._spec.mapper is not None  # noqa: S101 - see above
        return self._spec.mapper(checked.config), Refusal("")


def _refers(value: Any) -> bool:
    if isinstance(value, str):
        return _REFERENCE.fullmatch(value) is not None
    if isinstance(value, Mapping):
        return any(map(_refers, value.values()))
    return isinstance(value, list | tuple) and any(map(_refers, value))


def _filled(value: Any, message: Json, taken: list[str]) -> Any:
    if isinstance(value, str):
        reference = _REFERENCE.fullmatch(value)
        if reference is None:
            return value
        path = reference[1].removeprefix("message.").removeprefix("$.")
        found = get(message, path)
        if present(found):
            taken.append(path)
            return found
        return literal(reference[2].strip().strip("\"'"))
    if isinstance(value, Mapping):
        return {key: _filled(item, message, taken) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(item, message, taken) for item in value]
    return value


def _shown(value: Any) -> Any:
    """Return settings as something that can be encoded: a `Secret` by its identity, which is kept with the snapshot."""
    if isinstance(value, Mapping):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else f"\0{id(value)}"


def _without(message: Json, steps: list[str]) -> Json:
    """Return a copy of the event in which the value at a path is not there; what the copy shares is not changed."""
    step, rest = steps[0], steps[1:]
    if isinstance(message, dict) and step in message:
        copy = dict(message)
        if rest:
            copy[step] = _without(message[step], rest)
        else:
            del copy[step]
        return copy
    return message


def _mapping_failed(name: str, error: Exception) -> str:
    # The class and the place, never the text: it may quote the event or a secret.
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    place = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"the mapping of {name} failed: {type(error).__name__}{place}"
