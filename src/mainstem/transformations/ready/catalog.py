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

_OURS: Final[Mapping[str, str]] = {
    "add_geo": "mainstem.transformations.ready.enrich:ADD_GEO",
    "change_event_type": "mainstem.transformations.ready.event_type:CHANGE_EVENT_TYPE",
    "drop_bots": "mainstem.transformations.ready.choose:DROP_BOTS",
    "drop_event_names": "mainstem.transformations.ready.choose:DROP_EVENT_NAMES",
    "email_domain_allow_list": "mainstem.transformations.ready.choose:EMAIL_DOMAIN_ALLOW_LIST",
    "email_domain_deny_list": "mainstem.transformations.ready.choose:EMAIL_DOMAIN_DENY_LIST",
    "flatten_fields": "mainstem.transformations.ready.fields:FLATTEN_FIELDS",
    "hash_fields": "mainstem.transformations.ready.hash_fields:SPEC",
    "join_name": "mainstem.transformations.ready.names:JOIN_NAME",
    "keep_event_names": "mainstem.transformations.ready.choose:KEEP_EVENT_NAMES",
    "mask_fields": "mainstem.transformations.ready.mask_fields:SPEC",
    "mask_pii": "mainstem.transformations.ready.mask_pii:SPEC",
    "normalise_currency": "mainstem.transformations.ready.currency:NORMALISE_CURRENCY",
    "parse_user_agent": "mainstem.transformations.ready.enrich:PARSE_USER_AGENT",
    "remove_fields": "mainstem.transformations.ready.remove_fields:SPEC",
    "remove_nulls": "mainstem.transformations.ready.fields:REMOVE_NULLS",
    "rename_fields": "mainstem.transformations.ready.fields:RENAME_FIELDS",
    "sample_users": "mainstem.transformations.ready.choose:SAMPLE_USERS",
    "set_fields": "mainstem.transformations.ready.fields:SET_FIELDS",
    "split_name": "mainstem.transformations.ready.names:SPLIT_NAME",
    "truncate_ip": "mainstem.transformations.ready.truncate_ip:SPEC",
}


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
