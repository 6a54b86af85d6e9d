"""Fields: moved, set, dropped, cleared of nulls, flattened. None of it touches the messageId."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec

from mainstem.destinations.kit.body import json_bytes
from mainstem.destinations.kit.paths import MISSING, Json, PathInvalid, compile_read, parse_path
from mainstem.destinations.kit.templates import compile_tree
from mainstem.transformations.base import About, Change, Kept, Result
from mainstem.transformations.ready.base import ReadySpec, Tools
from mainstem.transformations.ready.edit import (
    bounded,
    check_path,
    check_writable,
    compile_edit,
    put,
    without,
)


class RenameFieldsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `rename_fields` is told."""

    fields: dict[str, str]
    """From where to where, done in this order: `{"traits.fname": "traits.firstName"}`."""
    overwrite: bool = False
    """Whether a field that is there already under the new name is replaced; otherwise both stay."""

    def __post_init__(self) -> None:
        if not self.fields:
            raise ValueError("`fields` is empty: nothing would be renamed")
        for source, target in self.fields.items():
            check_writable("fields", source)
            check_writable("fields", target)
            from_steps, to_steps = parse_path(source), parse_path(target)
            if to_steps[: len(from_steps)] == from_steps:
                raise ValueError(
                    f"`fields`: `{target}` lies within `{source}`; a field can't be moved into itself"
                )


class SetFieldsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `set_fields` is told."""

    fields: dict[str, Any]
    """Path and value, done in this order. Texts may take values from the event as it came: `$.userId`,
    `{{ traits.plan || "free" }}`; a text with a reference that has no value and no default sets nothing."""
    only_missing: bool = False
    """Whether only fields that are absent, null or an empty text are set."""

    def __post_init__(self) -> None:
        if not self.fields:
            raise ValueError("`fields` is empty: nothing would be set")
        for path, value in self.fields.items():
            check_writable("fields", path)
            try:
                compile_tree(value)
            except PathInvalid as error:
                raise ValueError(f"`fields`: {path}: {error}") from None


class RemoveNullsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `remove_nulls` is told."""

    paths: tuple[str, ...] = ()
    """Where to look, at any depth; empty = the whole event."""
    empty_texts: bool = False
    """Whether texts of nothing but white space go too."""
    empty_objects: bool = False
    """Whether `{}` and `[]` go too, also those that only became empty."""
    from_lists: bool = False
    """Whether nulls go from lists too; that changes the places of the elements behind them."""

    def __post_init__(self) -> None:
        for path in self.paths:
            check_path("paths", path)


class FlattenFieldsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `flatten_fields` is told."""

    path: str = "properties"
    """The object whose nested objects become fields of its own."""
    separator: Annotated[str, msgspec.Meta(min_length=1)] = "_"
    """Stands between the names: `address_city`."""
    max_depth: Annotated[int, msgspec.Meta(ge=1, le=32)] = 32
    """How many levels are flattened; what lies deeper stays an object."""
    lists: Literal["keep", "index", "json"] = "keep"
    """Lists stay, become `items_0`, `items_1` … (and their objects are flattened), or become JSON text."""

    def __post_init__(self) -> None:
        check_writable("path", self.path)


def _make_rename(settings: RenameFieldsSettings, _: Tools) -> Change:
    moves = [
        (
            compile_read(parse_path(source)),
            compile_edit(source),
            compile_read(parse_path(target)),
            compile_edit(target),
        )
        for source, target in settings.fields.items()
    ]

    def rename_fields(message: dict[str, Any], _: About) -> Result:
        for read, at_source, taken, at_target in moves:
            value = read(message)
            if value is MISSING or (not settings.overwrite and taken(message) is not MISSING):
                continue
            moved = put(without(message, at_source), at_target, value)
            # A scalar may stand where the new place needs an object: then the field stays where it is.
            message = moved if taken(moved) is value else message
        return Kept((message,))

    return rename_fields


def _make_set(settings: SetFieldsSettings, _: Tools) -> Change:
    places = [
        (compile_tree(value), compile_read(parse_path(path)), compile_edit(path))
        for path, value in settings.fields.items()
    ]

    def set_fields(message: dict[str, Any], _: About) -> Result:
        changed = message
        for fill, read, edit in places:
            if settings.only_missing and read(changed) not in (MISSING, None, ""):
                continue
            value = fill(message)
            if value is not MISSING:
                changed = put(changed, edit, value)
        return Kept((changed,))

    return bounded(set_fields)


def _make_remove_nulls(settings: RemoveNullsSettings, _: Tools) -> Change:
    edits = [compile_edit(path) for path in settings.paths]

    def clear(value: Json) -> Json:
        if value is None:
            return MISSING
        if isinstance(value, str):
            return MISSING if settings.empty_texts and not value.strip() else value
        if isinstance(value, dict):
            return clear_object(value)
        if isinstance(value, list):
            items = [clear(item) for item in value]
            if settings.from_lists:
                items = [item for item in items if item is not MISSING]
            else:
                items = [old if new is MISSING else new for new, old in zip(items, value, strict=True)]
            return MISSING if settings.empty_objects and not items else items
        return value

    def clear_object(members: dict[str, Any]) -> Json:
        kept = {key: new for key, item in members.items() if (new := clear(item)) is not MISSING}
        return MISSING if settings.empty_objects and not kept else kept

    def remove_nulls(message: dict[str, Any], _: About) -> Result:
        if not edits:
            kept = {key: new for key, item in message.items() if (new := clear(item)) is not MISSING}
            return Kept((kept,))
        for edit in edits:
            message = edit(message, lambda value: value if value is MISSING else clear(value))
        return Kept((message,))

    return bounded(remove_nulls)


def _make_flatten(settings: FlattenFieldsSettings, _: Tools) -> Change:
    edit = compile_edit(settings.path)

    def flatten(value: Json) -> Json:
        if not isinstance(value, dict):
            return value
        flat: dict[str, Any] = {}
        _flatten(value, "", 0, settings, flat.setdefault)
        return flat

    def flatten_fields(message: dict[str, Any], _: About) -> Result:
        return Kept((edit(message, flatten),))

    return bounded(flatten_fields)


def _flatten(
    value: Json, prefix: str, depth: int, settings: FlattenFieldsSettings, add: Callable[[str, Any], Any]
) -> None:
    """Add the fields below an object or a list; of two that get one name the first stays."""
    items = (
        value.items() if isinstance(value, dict) else ((str(index), item) for index, item in enumerate(value))
    )
    for key, item in items:
        name = f"{prefix}{key}"
        goes_on = (isinstance(item, dict) or (isinstance(item, list) and settings.lists == "index")) and item
        if goes_on and depth < settings.max_depth:
            _flatten(item, name + settings.separator, depth + 1, settings, add)
        elif isinstance(item, list) and settings.lists == "json":
            add(name, json_bytes(item).decode())
        else:
            add(name, item)


RENAME_FIELDS: Final = ReadySpec(
    name="rename_fields",
    title="Rename fields",
    text=(
        "Moves fields to other names or places. A field that the event does not have is passed over; one whose "
        "new name is taken stays where it is, unless `overwrite` says otherwise."
    ),
    group="shape",
    settings=RenameFieldsSettings,
    make=_make_rename,
)
SET_FIELDS: Final = ReadySpec(
    name="set_fields",
    title="Set fields",
    text=(
        "Sets fields to constants or to values of the event (templates), all or only those that are missing. "
        "Objects on the way are made; an element of a list can't be set."
    ),
    group="shape",
    settings=SetFieldsSettings,
    make=_make_set,
)
REMOVE_NULLS: Final = ReadySpec(
    name="remove_nulls",
    title="Remove nulls",
    text=(
        "Removes fields that are null, at any depth; if asked also empty texts, empty objects and lists, and "
        "nulls within lists. Numbers and false are never removed."
    ),
    group="shape",
    settings=RemoveNullsSettings,
    make=_make_remove_nulls,
    idempotent=True,
)
FLATTEN_FIELDS: Final = ReadySpec(
    name="flatten_fields",
    title="Flatten nested fields",
    text=(
        "Turns objects within an object into fields of its own (`address.city` becomes `address_city`), for "
        "tools that know no nesting. Of two fields that get the same name the first stays; empty objects stay."
    ),
    group="shape",
    settings=FlattenFieldsSettings,
    make=_make_flatten,
)
