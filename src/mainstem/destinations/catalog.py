"""All destination types by name, and the one way their settings are checked.

Ours are one line each below. A third party's package adds one with an entry point in the group
`mainstem.destinations` whose object is a `DestinationSpec`.
"""

import difflib
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

import msgspec

from mainstem.destinations.base import DestinationSpec
from mainstem.secret import Secret

_OURS: Final = {
    "ARCHIVE": "mainstem.destinations.archive",
    "HTTP": "mainstem.destinations.http",
    "KAFKA": "mainstem.destinations.kafka",
    "WEBHOOK": "mainstem.destinations.webhook",
}

# What RudderStack keeps in every destination's settings and other parts of Mainstem read, or need not.
_COMMON_KEYS: Final = frozenset(
    {
        "connectionMode",
        "consentManagement",
        "eventFilteringOption",
        "whitelistedEvents",
        "blacklistedEvents",
        "ketchConsentPurposes",
        "oneTrustCookieCategories",
        "useNativeSDK",
        "enableServerSideIdentify",
    }
)


class ConfigResult(msgspec.Struct, frozen=True):
    """Settings as the type wants them, or what is wrong with them."""

    config: Any = None
    errors: tuple[tuple[str, str], ...] = ()
    """(path within the settings, what is wrong and what would be right)."""
    warnings: tuple[tuple[str, str], ...] = ()


@cache
def _third_party() -> Mapping[str, DestinationSpec]:
    found = {}
    for point in entry_points(group="mainstem.destinations"):
        spec = point.load()
        if isinstance(spec, DestinationSpec):
            found[spec.name.upper()] = spec
    return found


@cache
def find_spec(name: str) -> DestinationSpec | None:
    """Return the specification of a type; case does not matter. None if there is no such type."""
    upper = name.upper()
    module = _OURS.get(upper)
    if module is not None:
        spec = import_module(module).SPEC
        assert isinstance(spec, DestinationSpec)  # noqa: S101 - our own table
        return spec
    return _third_party().get(upper)


def names() -> list[str]:
    """Return the names of all types, sorted."""
    return sorted({*_OURS, *_third_party()})


def check_config(type_name: str, raw: Mapping[str, Any]) -> ConfigResult:
    """Return a destination's settings as its type's struct, or every problem found.

    Numbers and booleans may be given as text, as RudderStack's dashboard saves them. Values that are
    `Secret` (from the environment) fit any text field.
    """
    spec = find_spec(type_name)
    if spec is None:
        close = difflib.get_close_matches(type_name.upper(), names(), n=1)
        hint = f"; did you mean `{close[0]}`?" if close else f"; there are {', '.join(names())}"
        return ConfigResult(errors=(("type", f"no destination type `{type_name}`{hint}"),))
    plain = _plain(raw)
    known = {field.encode_name for field in msgspec.structs.fields(spec.config)}
    warnings = tuple(
        (key, _unknown_key(key, known)) for key in plain if key not in known and key not in _COMMON_KEYS
    )
    try:
        config = msgspec.convert(
            {key: value for key, value in plain.items() if key in known},
            spec.config,
            strict=False,
            dec_hook=_to_secret,
        )
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        where = path.rstrip("`").lstrip(".")
        return ConfigResult(errors=((where or _field_named(message), message),), warnings=warnings)
    return ConfigResult(config=config, warnings=warnings)


def secret_texts(raw: Any) -> tuple[str, ...]:
    """Return every secret in a destination's settings, for redaction wherever requests are shown."""
    if isinstance(raw, Secret):
        return (raw.reveal(),) if raw else ()
    if isinstance(raw, Mapping):
        return tuple(text for value in raw.values() for text in secret_texts(value))
    if isinstance(raw, list | tuple):
        return tuple(text for value in raw for text in secret_texts(value))
    return ()


def _plain(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _to_secret(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise msgspec.ValidationError(f"Expected text, got {type(value).__name__}")


def _unknown_key(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return "no such setting" + (f"; did you mean `{close[0]}`?" if close else "; it is ignored")


def _field_named(message: str) -> str:
    # "Object missing required field `url`"
    parts = message.split("`")
    return parts[1] if len(parts) > 1 else ""
