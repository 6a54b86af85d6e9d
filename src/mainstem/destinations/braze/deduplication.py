"""Attributes that a person has already: Braze bills each one it is sent, changed or not.

Follows https://www.braze.com/docs/api/endpoints/export/user_data/post_users_identifier (read 2026-11): profiles of up
to 50 people a request. Only custom attributes are compared and left out; Braze does not bill its own ones.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

import msgspec

from mainstem.destinations.base import Answer, Body, Call, Unit
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import ok
from mainstem.destinations.kit.values import mapping, sequence, text

Json = Any
Object = dict[str, Any]

_MOST: Final = 50
_EXPORTED: Final = ("external_id", "user_aliases", "custom_attributes")
Key = tuple[str, str]
"""Whom an object is about: (alias label, alias name), or ("", external id)."""


def without_known(
    units: Sequence[Unit], url: str, headers: Mapping[str, str]
) -> Generator[Call, Answer, list[Unit]]:
    """Return the units without the attributes that their people have. One left with nothing has no calls.

    Profiles that can't be had are taken for empty: then everything is sent.

    Args:
        units: of one `users/track` request each.
        url: of the export.
        headers: of the export.
    """
    known: dict[Key, Object] = {}
    people = list(dict.fromkeys(key for unit in units for one in _attributes(unit) if (key := _key(one))))
    for start in range(0, len(people), _MOST):
        asked = people[start : start + _MOST]
        wanted: Object = {"fields_to_export": list(_EXPORTED)}
        if ids := [name for label, name in asked if not label]:
            wanted["external_ids"] = ids
        if aliases := [{"alias_name": name, "alias_label": label} for label, name in asked if label]:
            wanted["user_aliases"] = aliases
        answer = yield json_call(url, wanted, headers=headers)
        if ok(answer):
            for profile in map(mapping, sequence(mapping(answer.body).get("users"))):
                attributes = mapping(profile.get("custom_attributes"))
                known["", text(profile.get("external_id"))] = attributes
                for alias in map(mapping, sequence(profile.get("user_aliases"))):
                    known[text(alias.get("alias_label")), text(alias.get("alias_name"))] = attributes
    left: list[Unit] = []
    for unit in units:
        reduced = _reduced(unit, known)
        left.append(reduced)
        for one in _attributes(reduced):
            # What is sent now is known to what comes after it.
            if key := _key(one):
                known[key] = {**known.get(key, {}), **one}
    return left


def _attributes(unit: Unit) -> list[Object]:
    body = unit.calls[0].body if unit.calls else None
    return sequence(mapping(body.value).get("attributes")) if body is not None else []


def _key(attributes: Object) -> Key | None:
    if "external_id" in attributes:
        return "", text(attributes["external_id"])
    alias = mapping(attributes.get("user_alias"))
    return (text(alias["alias_label"]), text(alias["alias_name"])) if alias else None


_ABOUT: Final = frozenset(("external_id", "user_alias", "_update_existing_only", "_merge_objects"))


def _reduced(unit: Unit, known: Mapping[Key, Object]) -> Unit:
    given = _attributes(unit)
    if not given:
        return unit
    left: list[Object] = []
    for one in given:
        has = known.get(_key(one) or ("", ""), {})
        kept = {
            name: value
            for name, value in one.items()
            if name not in has or has[name] != value or name in _ABOUT
        }
        if kept.keys() - _ABOUT:
            left.append(kept)
    call = unit.calls[0]
    assert call.body is not None  # noqa: S101 - it has attributes
    body = {name: value for name, value in call.body.value.items() if name != "attributes"}
    if left:
        body["attributes"] = left
    if not any(isinstance(items, list) for items in body.values()):
        return Unit(unit.index, (), unit.event)
    return Unit(unit.index, (msgspec.structs.replace(call, body=Body("json", body)),), unit.event)
