"""Rows of a load, gathered by table, in bounded memory.

rows, shapes -> **staging** -> fit -> loader. Rows come as objects, one by one, or as columns of many rows of one shape;
they wait as columns, and a chunk at a time goes to a file of the spool, in the types it has by itself. A column whose
values are not of one type is kept value by value, so that `fit` can still make the best of each.

Rows of one shape come together, so a table's rows are not in the order of their events; each knows its number.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from mainstem.warehouse.kinds import MOMENT_PATTERN, Typed, json_text
from mainstem.warehouse.rows import id_text_of
from mainstem.warehouse.schema import Columns, ColumnType, merged_type
from mainstem.warehouse.shapes import Cell, How, value_of
from mainstem.warehouse.values import ARROW, CONVERT, Unfit, text_of

Json = Any

_CHUNK_ROWS: Final = 10_000
_CHUNK_CELLS: Final = 400_000
NUMBER: Final = "\x00number"
"""The column of a chunk with the rows' numbers: no table has one of this name."""
UNSTAGED: Final = frozenset({"uuid_ts", "loaded_at"})
"""Columns that the engine fills, in lower case."""

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder().decode
_PACKED: Final = pa.binary()
STAGED: Final[Mapping[ColumnType, Any]] = {**ARROW, "datetime": pa.string()}
"""Times are kept as they were written: in a column of words they still have to be."""


class Chunk(msgspec.Struct, frozen=True):
    """Some rows of a table, as columns."""

    columns: "pa.Table"
    """A column is of the Arrow type of its kind (`STAGED`), or binary: values of several types, each packed alone."""
    kinds: Columns


class Part(msgspec.Struct, frozen=True):
    """Rows of one table from events of one shape, as columns."""

    numbers: Sequence[int]
    """Of the events, in order."""
    cells: Sequence[tuple[Cell, Sequence[Json]]]
    """The values of a constant are empty."""
    also: Columns


class TableRows:
    """The rows of one table, being gathered."""

    def __init__(self, table: str, spool: Path, name: str) -> None:
        """
        Args:
            spool: a folder of this load's own.
            name: of its files: no other table's in this folder.
        """
        self.table = table
        self.rows = 0
        self._spool = spool
        self._name = name
        self._kinds: dict[str, ColumnType] = {}
        self._seen: dict[str, set[ColumnType]] = {}
        self._shapes: set[tuple[str, ...]] = set()
        self._waiting: list[Mapping[str, Json]] = []
        self._numbers: list[int] = []
        self._held: list[tuple[pa.RecordBatch, Columns]] = []
        self._held_rows = 0
        self._cells = 0
        self._chunks: list[tuple[Path, Columns]] = []

    @classmethod
    def kept(
        cls,
        table: str,
        chunks: Sequence[tuple[Path, Columns]],
        columns: Columns,
        seen: Mapping[str, frozenset[ColumnType]],
        rows: int,
    ) -> "TableRows":
        """Return rows that were gathered before, from their files."""
        made = cls(table, Path(), "")
        made._chunks, made._kinds, made.rows = list(chunks), dict(columns), rows
        made._seen = {name: set(seen.get(name, {kind})) for name, kind in columns.items()}
        return made

    def kept_chunks(self) -> Sequence[tuple[Path, Columns]]:
        """Return the files of what was flushed, in order, with the types of their columns."""
        return tuple(self._chunks)

    @property
    def seen(self) -> Mapping[str, frozenset[ColumnType]]:
        """The types that the values of a column have, where they are not all of one."""
        return {name: frozenset(kinds) for name, kinds in self._seen.items() if len(kinds) > 1}

    @property
    def cells(self) -> int:
        """Values that wait in memory."""
        return self._cells

    @property
    def columns(self) -> Columns:
        """All columns, each wide enough for the rows of this load."""
        return dict(self._kinds)

    def add(self, data: Mapping[str, Json], columns: Columns, number: int) -> None:
        """Take a row; columns without a value in it are the table's all the same. Both are kept: don't change them.

        Args:
            number: of its event; those of later events are larger.
        """
        self._waiting.append(data)
        self._numbers.append(number)
        shape = (*columns, *columns.values())
        if shape not in self._shapes:
            self._shapes.add(shape)
            self._learn(columns)
        self._cells += len(data)
        if len(self._waiting) >= _CHUNK_ROWS or self._cells >= _CHUNK_CELLS:
            self.flush()

    def add_parts(self, parts: Sequence[Part], typed: Typed) -> None:
        """Take many rows at once."""
        numbers = parts[0].numbers if len(parts) == 1 else [n for part in parts for n in part.numbers]
        columns: dict[str, dict[int, tuple[Cell, Sequence[Json]]]] = {}
        for index, part in enumerate(parts):
            self._learn(part.also)
            for cell, values in part.cells:
                columns.setdefault(cell.column, {})[index] = (cell, values)
        arrays: list[Any] = []
        kinds: dict[str, ColumnType] = {}
        for name, found in columns.items():
            array, seen = _gathered(found, parts, typed)
            if not seen:
                continue  # empty in all rows
            for kind in sorted(seen):
                self._learn({name: kind})
                kinds[name] = kind if name not in kinds else merged_type(kinds[name], kind)
            arrays.append(array)
        self._hold(arrays, kinds, numbers)
        if self._held_rows >= _CHUNK_ROWS:
            self.flush()

    def _learn(self, columns: Columns) -> None:
        kinds = self._kinds
        for name, kind in columns.items():
            known = kinds.get(name)
            if known is None:
                kinds[name] = kind
                self._seen[name] = {kind}
            elif known != kind:
                kinds[name] = merged_type(known, kind)
                self._seen[name].add(kind)
            else:
                self._seen[name].add(kind)

    def flush(self) -> None:
        """Move what waits into the spool."""
        self._hold_waiting()
        held = self._held
        start = 0
        while start < len(held):
            # What is alike is one file.
            batch, kinds = held[start]
            end = start + 1
            while end < len(held) and held[end][1] == kinds and held[end][0].schema.equals(batch.schema):
                end += 1
            path = self._spool / f"{self._name}-{len(self._chunks):06d}.arrow"
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
                for one, _ in held[start:end]:
                    writer.write_batch(one)
            self._chunks.append((path, kinds))
            start = end
        self._held = []
        self._held_rows = 0
        self._cells = 0

    def _hold_waiting(self) -> None:
        rows, numbers = self._waiting, self._numbers
        if not rows:
            return
        arrays: list[Any] = []
        kinds: dict[str, ColumnType] = {}
        for name, kind in self._kinds.items():
            if name.lower() not in UNSTAGED:
                arrays.append(_array([row.get(name) for row in rows], kind))
                kinds[name] = kind
        self._waiting, self._numbers = [], []
        self._cells -= sum(map(len, rows))
        self._hold(arrays, kinds, numbers)

    def _hold(self, arrays: list[Any], kinds: dict[str, ColumnType], numbers: Sequence[int]) -> None:
        batch = pa.record_batch([*arrays, pa.array(numbers, pa.int64())], names=[*kinds, NUMBER])
        self._held.append((batch, kinds))
        self._held_rows += len(numbers)
        self._cells += len(numbers) * len(kinds)
        self.rows += len(numbers)

    def chunks(self) -> Iterator[Chunk]:
        """Yield what was gathered and flushed, in order."""
        for path, kinds in self._chunks:
            with pa.memory_map(str(path)) as source:
                yield Chunk(pa.ipc.open_file(source).read_all(), kinds)


def _gathered(
    found: Mapping[int, tuple[Cell, Sequence[Json]]], parts: Sequence[Part], typed: Typed
) -> tuple[Any, frozenset[ColumnType]]:
    """Return a column of several parts' rows, and the types that its values have by themselves."""
    cells = [cell for cell, _ in found.values()]
    first = cells[0]
    alike = all(cell.how == first.how and cell.keeps_blank == first.keeps_blank for cell in cells)
    if alike and first.how == "constant":
        alike = all(cell.kind == first.kind for cell in cells) and type(first.constant) is str
    if len(parts) == 1:
        cell, values = found[0]
        if cell.how == "constant":
            values = [cell.constant] * len(parts[0].numbers)
    else:
        values = []
        for index, part in enumerate(parts):
            here = found.get(index)
            if here is None:
                values += [None] * len(part.numbers)
            elif here[0].how == "constant":
                values += [here[0].constant] * len(part.numbers)
            else:
                values += here[1]
    if alike:
        try:
            made = _TAKEN[first.how](values, first, typed)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError, Unfit):
            made = None
        if made is not None:
            return made
    return _one_by_one(found, parts, values, typed)


def _one_by_one(
    found: Mapping[int, tuple[Cell, Sequence[Json]]],
    parts: Sequence[Part],
    values: Sequence[Json],
    typed: Typed,
) -> tuple[Any, frozenset[ColumnType]]:
    taken: list[Json] = []
    kinds: dict[ColumnType, None] = {}
    start = 0
    for index, part in enumerate(parts):
        end = start + len(part.numbers)
        cell = found[index][0] if index in found else None
        for value in values[start:end]:
            pair = None if cell is None else value_of(cell, value, typed)
            if pair is None:
                taken.append(None)
            else:
                kinds[pair[0]] = None
                taken.append(pair[1])
        start = end
    merged: ColumnType | None = None
    for kind in kinds:
        merged = kind if merged is None else merged_type(merged, kind)
    return _array(taken, merged or "string"), frozenset(kinds)


_Made = tuple[Any, frozenset[ColumnType]]
"""A column, and the types that its values have by themselves; none if it is empty."""


def _take_times(values: Sequence[Json], cell: Cell, typed: Typed) -> _Made:
    array = _without_blanks(pa.array(values, STAGED["datetime"]))
    return array, _if_any("datetime", array)


def _take_words(values: Sequence[Json], cell: Cell, typed: Typed) -> _Made | None:
    try:
        array = pa.array(values, pa.string())
    except (pa.ArrowTypeError, pa.ArrowInvalid):  # ids that are numbers
        array = pa.array([None if value is None else id_text_of(value) for value in values], pa.string())
    return _words(array, cell, typed)


def _words(array: Any, cell: Cell, typed: Typed) -> _Made | None:
    shortest, longest = _lengths(array)
    if not shortest and not cell.keeps_blank:
        array = _without_blanks(array)
    if not longest:
        return array, _if_any("string", array)
    # The rules are asked about the longest: if that may be a text (bytes are counted, the rules count less), the values
    # are looked at one by one.
    return (array, frozenset(("string",))) if typed("x" * longest)[0] == "string" else None


def _take_str(values: Sequence[Json], cell: Cell, typed: Typed) -> _Made | None:
    array = pa.array(values, pa.string())
    shortest, longest = _lengths(array)
    # A time has ten bytes and more, and the fifth is a hyphen.
    if longest < 10 or not pc.any(pc.equal(pc.binary_slice(array.cast(pa.binary()), 4, 5), _HYPHEN)).as_py():
        return _words(array, cell, typed)
    if not shortest and not cell.keeps_blank:
        array = _without_blanks(array)
    if not pc.all(pc.match_substring_regex(array, MOMENT_PATTERN)).as_py():
        return None
    array.cast(ARROW["datetime"])  # raises for a day that is not in the calendar
    return array, _if_any("datetime", array)


def _lengths(array: Any) -> tuple[int, int]:
    """Return the lengths of the shortest and the longest text, in bytes; zero if there is none."""
    found = pc.min_max(pc.binary_length(array))
    return found["min"].as_py() or 0, found["max"].as_py() or 0


def _without_blanks(array: Any) -> Any:
    blank = pc.equal(array, _BLANK)
    return pc.if_else(blank, None, array) if pc.any(blank).as_py() else array


def _take_int(values: Sequence[Json], cell: Cell, typed: Typed) -> _Made:
    array = pa.array(values, ARROW["int"])
    return array, _if_any("int", array)


def _take_float(values: Sequence[Json], cell: Cell, typed: Typed) -> _Made | None:
    array = pa.array(values, ARROW["float"])
    if not pc.all(pc.is_finite(array)).as_py():
        return None
    whole = pc.equal(pc.floor(array), array)
    if not pc.any(whole).as_py():
        return array, _if_any("float", array)
    # Whole numbers so large that they are written otherwise: one by one.
    if pc.any(pc.greater_equal(pc.abs(array), _LARGE)).as_py():
        return None
    if pc.all(whole).as_py():
        return array.cast(ARROW["int"]), frozenset(("int",))
    return pc.add(array, _ZERO), frozenset(("int", "float"))  # -0.0 is 0, as by the rules


def _take_bool(values: Sequence[Json], cell: Cell, typed: Typed) -> _Made:
    array = pa.array(values, ARROW["boolean"])
    return array, _if_any("boolean", array)


def _take_list(values: Sequence[Json], cell: Cell, typed: Typed) -> _Made | None:
    return _words(
        pa.array([json_text(value) if value else None for value in values], pa.string()), cell, typed
    )


def _take_constant(values: Sequence[Json], cell: Cell, typed: Typed) -> _Made:
    array = pa.array(values, STAGED[cell.kind])
    return array, _if_any(cell.kind, array)


def _if_any(kind: ColumnType, array: Any) -> frozenset[ColumnType]:
    return frozenset((kind,)) if array.null_count < len(array) else frozenset()


_BLANK: Final[Any] = pa.scalar("")
_HYPHEN: Final[Any] = pa.scalar(b"-")
_ZERO: Final[Any] = pa.scalar(0.0)
_LARGE: Final[Any] = pa.scalar(1e15)
_TAKEN: Final[Mapping[How, Callable[[Sequence[Json], Cell, Typed], _Made | None]]] = {
    "time": _take_times,
    "words": _take_words,
    "str": _take_str,
    "int": _take_int,
    "float": _take_float,
    "bool": _take_bool,
    "list": _take_list,
    "constant": _take_constant,
}
"""Whole columns; None, or an error of Arrow's: not all of them are of a kind."""


def _array(values: list[Json], kind: ColumnType) -> Any:
    """Return values in the Arrow type of their kind where all are of it, else packed one by one."""
    try:
        if kind in ("string", "text"):
            types = set(map(type, values)) - _TEXTS
            if types:
                if not types <= _STRUCTURES:
                    return _packed(values)  # numbers among words: they may still become numbers
                values = [None if value is None else text_of(value) for value in values]
        elif kind == "json":
            values = [None if value is None else CONVERT["json"](value) for value in values]
        return pa.array(values, STAGED[kind])
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError, Unfit):
        return _packed(values)


_TEXTS: Final = frozenset({str, type(None)})
_STRUCTURES: Final = frozenset({list, dict})


def _packed(values: list[Json]) -> Any:
    return pa.array([None if value is None else _packed_value(value) for value in values], _PACKED)


def _packed_value(value: Json) -> bytes:
    try:
        return _pack(value)
    except (OverflowError, UnicodeEncodeError):  # an integer beyond 64 bits, a lone surrogate
        return _pack(text_of(value))


def values_of(column: Any) -> list[Json]:
    """Return a chunk's column as Python values, null where a row has none."""
    values: list[Json] = column.to_pylist()
    if column.type == _PACKED:
        return [None if value is None else _unpack(value) for value in values]
    return values
