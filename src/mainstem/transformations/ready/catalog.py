"""All ready-made transformations by name, and the one way their settings are checked.

Each is one line below; `make` of its `SPEC` binds validated settings into a `Change`.
"""

import difflib
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, Final

import msgspec

from mainstem.destinations.catalog import ConfigResult, check_settings, unknown_settings
from mainstem.transformations.base import Change
from mainstem.transformations.ready.base import NO_TOOLS, ReadySpec, TextChange, Tools
from mainstem.workspace.model import Transformation

_OURS: Final[Mapping[str, str]] = {}


@cache
def find_spec(name: str) -> ReadySpec | None:
    """Return the specification by name, None if there is none of that name."""
    place = _OURS.get(name)
    if place is None:
        return None
    module, _, attribute = place.partition(":")
    spec = getattr(import_module(module), attribute)
    assert isinstance(spec, ReadySpec)  # noqa: S101 - our own table
    return spec


def names() -> list[str]:
    """Return the names of all of them, sorted."""
    return sorted(_OURS)


def validate_settings(name: str, raw: Mapping[str, Any]) -> ConfigResult:
    """Return the settings as the transformation's struct (`config`), or every problem found.

    A setting that does not exist is an error here, not a warning: a policy with a misspelt setting would
    protect less than its author believes. Values that are `Secret` fit any text field. Never raises.
    """
    spec = find_spec(name)
    if spec is None:
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean `{close[0]}`?" if close else f"; there are {', '.join(names())}"
        return ConfigResult(errors=(("ready", f"no ready-made transformation `{name}`{hint}"),))
    unknown = tuple(
        (key, text.removesuffix("; it is ignored")) for key, text in unknown_settings(spec.settings, raw)
    )
    result = check_settings(spec.settings, raw)
    if unknown:
        return msgspec.structs.replace(result, config=None, errors=unknown + result.errors)
    return result


def change_for(transformation: Transformation, tools: Tools = NO_TOOLS) -> Change:
    """Return the change that a transformation of kind `ready` makes; make it once per version and keep it.

    Raises:
        KeyError: there is no ready-made transformation of its name (the loaders refuse such a workspace).
    """
    return _spec(transformation).make(transformation.settings, tools)


def text_change_for(transformation: Transformation) -> TextChange:
    """Return what an edge policy does to the texts that the gateway keeps beside the message.

    Raises:
        KeyError: as for `change_for`.
    """
    make_text = _spec(transformation).make_text
    return make_text(transformation.settings) if make_text is not None else _unchanged


def _spec(transformation: Transformation) -> ReadySpec:
    spec = find_spec(transformation.ready)
    if spec is None:
        raise KeyError(transformation.ready)
    return spec


def _unchanged(text: str) -> str:
    return text
