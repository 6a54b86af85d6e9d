"""From objects nested in an event to columns: the hot path of `rows`. Pure.

How a key becomes a column is computed once for each path of keys; a cell then costs a look-up. Two ways: RudderStack's,
where the last of two keys with one column wins, and one that keeps all.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from mainstem.warehouse import kinds
from mainstem.warehouse.kinds import json_text
from mainstem.warehouse.naming import Engine, Namer
from mainstem.warehouse.schema import ColumnType

Json = Any
Path = tuple[str, ...]
Cells = tuple[dict[str, Json], dict[str, ColumnType]]
"""Values and types of some columns of a row."""

_MAX_REMEMBERED: Final = 20_000
"""Paths of keys (of one part of one type of event) whose columns are remembered; beyond, they are made anew."""
_MAX_DEPTH: Final = 100
"""Objects nested deeper are a column of JSON."""
_PASSED_IP: Final = ("context", "ip")
"""Is `context_ip` and `context_passed_ip` by itself."""
_VIOLATIONS: Final = "violationErrors"
"""What tracking plans found wrong with an event."""


class Unnamed(ValueError):
    """RudderStack's rules leave nothing of a key that could name a column."""


class Entry(msgspec.Struct):
    """What becomes of a key at its place."""

    column: str
    path: Path
    skipped: bool
    as_json: bool
    as_text: bool
    """An object here is a text of JSON (level three and deeper of cloud sources)."""
    plain: bool
    """Nothing is special here: a text is the column's."""
    level: "Level | None" = None


class Level:
    """The keys of an object at its place in an event."""

    __slots__ = ("entries", "path", "plan")

    def __init__(self, plan: "Plan", path: Path) -> None:
        self.plan = plan
        self.path = path
        self.entries: dict[str, Entry] = {}


class Plan:
    """How one part of an event becomes columns."""

    def __init__(
        self,
        namer: Namer,
        prefix: Path,
        reserved: frozenset[str],
        json_paths: frozenset[Path],
        *,
        as_rudderstack: bool,
        cloud: bool,
    ) -> None:
        """
        Args:
            prefix: what stands before all names: `context`.
            reserved: columns that are ours.
            json_paths: paths, without the prefix, that are a column of JSON.
            cloud: objects of level three and deeper are a text.
        """
        self._namer = namer
        self._as_rudderstack = as_rudderstack
        self._prefix = prefix
        self._reserved = reserved
        self._json_paths = json_paths
        self._cloud = cloud
        self._remembered = 0
        self.root = Level(self, prefix)

    def entry(self, level: Level, key: str) -> Entry:
        """Make the entry of a key that is new here."""
        if self._remembered > _MAX_REMEMBERED:
            self._remembered = 0
            self.root.entries = {}
            level.entries = {}
        self._remembered += 1
        path = (*level.path, key)
        column = self._namer.column(path)
        skipped = column in self._reserved
        # Only in the context: a property of the same path is the user's.
        is_address = bool(self._prefix) and path == _PASSED_IP
        if skipped and not self._as_rudderstack and not is_address:
            skipped = False
            column = self._namer.beside(column, path)
        as_json = path[len(self._prefix) :] in self._json_paths
        made = Entry(
            column=column,
            path=path,
            skipped=skipped,
            as_json=as_json,
            plain=bool(column) and not skipped and not as_json and key != _VIOLATIONS,
            as_text=(self._cloud and len(path) - len(self._prefix) > 3) or len(path) > _MAX_DEPTH,
        )
        level.entries[key] = made
        return made


class Flattener:
    """Columns of objects, by one set of options."""

    def __init__(
        self, engine: Engine, namer: Namer, *, as_rudderstack: bool, keep_empty_strings: bool
    ) -> None:
        self._engine = engine
        self._namer = namer
        self._keep_empty_strings = keep_empty_strings
        self._json_type = cast("ColumnType", engine.json_type)
        self._typed = kinds.as_rudderstack(engine) if as_rudderstack else kinds.kept(engine)
        self._short = engine.short
        self.flatten = self._flatten_as_rudderstack if as_rudderstack else self._flatten_kept
        """Returns the columns of an object by a plan. Raises Unnamed."""

    def _flatten_kept(self, given: Mapping[str, Json], plan: Plan) -> Cells:
        data: dict[str, Json] = {}
        columns: dict[str, ColumnType] = {}
        count = self._fill(given, plan.root, data, columns)
        if count > len(data):
            return self.flatten_apart(given, plan, taken={})
        return data, columns

    def _fill(
        self,
        given: Mapping[str, Json],
        level: Level,
        data: dict[str, Json],
        columns: dict[str, ColumnType],
    ) -> int:
        """Set the columns of an object; return how many values there were."""
        entries = level.entries
        typed = self._typed
        short = self._short
        count = 0
        for key, value in given.items():
            if value is None:
                continue
            entry = entries.get(key)
            if entry is None:
                entry = level.plan.entry(level, key)
                entries = level.entries
            kind = type(value)
            if entry.skipped and kind is not dict:
                continue
            if kind is str:
                if not entry.as_json:
                    if not value:
                        if not self._keep_empty_strings:
                            continue
                        columns[entry.column] = "string"
                    elif len(value) < 10 or (value[4] != "-" and len(value) < short):
                        columns[entry.column] = "string"
                    else:
                        columns[entry.column], value = typed(value)
                    data[entry.column] = value
                    count += 1
                    continue
            elif kind is dict:
                if not value:
                    continue
                if not entry.as_json and not entry.as_text:
                    if entry.level is None:
                        entry.level = Level(level.plan, entry.path)
                    count += self._fill(value, entry.level, data, columns)
                    continue
            elif kind is list and not value:
                continue
            if entry.as_json:
                columns[entry.column], data[entry.column] = self._json_type, json_text(value)
            else:
                columns[entry.column], data[entry.column] = typed(value)
            count += 1
        return count

    def flatten_apart(self, given: Mapping[str, Json], plan: Plan, *, taken: Mapping[str, Json]) -> Cells:
        """As `_flatten_kept`, for keys that would be the same column: one of them has it, the others a suffix.

        Which one does not depend on their order: the key that is spelled like the column, else the first by name.
        """
        wanted: dict[str, list[tuple[bool, Path, ColumnType, Json]]] = {}
        for entry, value in self._leaves(given, plan.root):
            kind: ColumnType
            if entry.as_json:
                kind, value = self._json_type, json_text(value)
            elif value == "" and type(value) is str:
                kind = "string"
            else:
                kind, value = self._typed(value)
            spelled = len(entry.path) == 1 and entry.path[0].lower() == entry.column.lower()
            wanted.setdefault(entry.column, []).append((not spelled, entry.path, kind, value))
        data: dict[str, Json] = {}
        columns: dict[str, ColumnType] = {}
        late: list[tuple[str, Path, ColumnType, Json]] = []
        for column, claims in wanted.items():
            claims.sort(key=lambda claim: claim[:2])
            if column not in taken:
                _, _, columns[column], data[column] = claims.pop(0)
            late += [(column, path, kind, value) for _, path, kind, value in claims]
        for column, path, kind, value in late:
            if column in taken and taken[column] == value and type(taken[column]) is type(value):
                continue
            name = self._namer.beside(column, path) if column in taken else self._namer.apart(column, path)
            again = 0
            while name in data or name in taken or name in wanted:
                name = self._namer.apart(column, path if not again else (*path, str(again)))
                again += 1
            columns[name], data[name] = kind, value
        return data, columns

    def _leaves(self, given: Mapping[str, Json], level: Level) -> list[tuple[Entry, Json]]:
        found: list[tuple[Entry, Json]] = []
        for key, value in given.items():
            if value is None or (value == "" and not self._keep_empty_strings):
                continue
            if isinstance(value, dict | list) and not value:
                continue
            entry = level.entries.get(key) or level.plan.entry(level, key)
            if entry.skipped and not isinstance(value, dict):
                continue
            if isinstance(value, dict) and not entry.as_json and not entry.as_text:
                if entry.level is None:
                    entry.level = Level(level.plan, entry.path)
                found += self._leaves(value, entry.level)
            else:
                found.append((entry, value))
        return found

    def _flatten_as_rudderstack(self, given: Mapping[str, Json], plan: Plan) -> Cells:
        data: dict[str, Json] = {}
        columns: dict[str, ColumnType] = {}
        self._fill_as_rudderstack(given, plan.root, data, columns)
        return data, columns

    def _fill_as_rudderstack(
        self,
        given: Mapping[str, Json],
        level: Level,
        data: dict[str, Json],
        columns: dict[str, ColumnType],
    ) -> None:
        entries = level.entries
        short = self._short
        for key, value in given.items():
            if value is None or value == "" or (type(value) is list and is_blank(value)):
                continue
            entry = entries.get(key)
            if entry is None:
                entry = level.plan.entry(level, key)
                entries = level.entries
            if (
                type(value) is str
                and len(value) < short
                and (len(value) < 10 or value[4] != "-")
                and entry.plain
            ):
                data[entry.column], columns[entry.column] = value, "string"
                continue
            if isinstance(value, dict) and not entry.as_json and not entry.as_text:
                if entry.level is None:
                    entry.level = Level(level.plan, entry.path)
                self._fill_as_rudderstack(value, entry.level, data, columns)
                continue
            if entry.skipped:
                continue
            if not entry.column:
                raise Unnamed("nothing that could name a column is left of a key")
            kind: ColumnType
            if entry.as_json:
                kind, value = self._json_type, json_text(kinds.as_javascript(value))
            elif isinstance(value, dict):
                kind, value = "string", json_text(kinds.as_javascript(value))
            else:
                kind, value = self._typed(value)
                kind = violations_type(self._engine, key) or kind
            data[entry.column], columns[entry.column] = value, kind


def violations_type(engine: Engine, key: Json) -> ColumnType | None:
    """Return the type of the column with what tracking plans found wrong; None for other keys and where it has none."""
    if key == _VIOLATIONS and engine.violations_type:
        return cast("ColumnType", engine.violations_type)
    return None


def is_blank(value: Json) -> bool:
    """Tell whether JavaScript writes a value as an empty text."""
    if isinstance(value, list):
        return not value or (len(value) == 1 and is_blank(value[0]))
    return value is None or value == ""
