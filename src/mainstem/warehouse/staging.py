"""Rows of a load, gathered by table, in bounded memory.

rows -> **staging** -> fit -> loader. Rows come as objects and wait as columns; a chunk at a time goes to a file of
the spool, in the types it has by itself. A column whose values are not of one type is kept value by value, so that
`fit` can still make the best of each.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa

from mainstem.warehouse.schema import Columns, ColumnType, merged_type
from mainstem.warehouse.values import ARROW, CONVERT, Unfit, text_of

Json = Any

_CHUNK_ROWS: Final = 10_000
_CHUNK_CELLS: Final = 400_000
UNSTAGED: Final = frozenset({"uuid_ts", "loaded_at"})
"""Columns that the engine fills, in lower case."""

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder().decode
_PACKED: Final = pa.binary()


class Chunk(msgspec.Struct, frozen=True):
    """Some rows of a table, as columns."""

    columns: "pa.Table"
    """A column is of the Arrow type of its kind, or binary: values of several types, each packed by itself."""
    kinds: Columns


class TableRows:
    """The rows of one table, being gathered."""

    def __init__(self, table: str, spool: Path, number: int) -> None:
        """
        Args:
            spool: a folder of this load's own.
            number: of the table in this load: names its files.
        """
        self.table = table
        self.rows = 0
        self._spool = spool
        self._number = number
        self._kinds: dict[str, ColumnType] = {}
        self._seen: dict[str, set[ColumnType]] = {}
        self._shapes: set[tuple[str, ...]] = set()
        self._waiting: list[Mapping[str, Json]] = []
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
        made = cls(table, Path(), 0)
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

    def add(self, data: Mapping[str, Json], columns: Columns) -> None:
        """Take a row; columns without a value in it are the table's all the same. Both are kept: don't change them."""
        self._waiting.append(data)
        shape = (*columns, *columns.values())
        if shape not in self._shapes:
            self._shapes.add(shape)
            self._learn(columns)
        self._cells += len(data)
        if len(self._waiting) >= _CHUNK_ROWS or self._cells >= _CHUNK_CELLS:
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
        rows = self._waiting
        if not rows:
            return
        arrays: list[Any] = []
        names: list[str] = []
        for name, kind in self._kinds.items():
            if name.lower() not in UNSTAGED:
                arrays.append(_array([row.get(name) for row in rows], kind))
                names.append(name)
        batch = pa.record_batch(arrays, names=names)
        path = self._spool / f"{self._number:04d}-{len(self._chunks):06d}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        self._chunks.append((path, dict(self._kinds)))
        self.rows += len(rows)
        self._waiting = []
        self._cells = 0

    def chunks(self) -> Iterator[Chunk]:
        """Yield what was gathered and flushed, in order."""
        for path, kinds in self._chunks:
            with pa.memory_map(str(path)) as source:
                yield Chunk(pa.ipc.open_file(source).read_all(), kinds)


def _array(values: list[Json], kind: ColumnType) -> Any:
    """Return values in the Arrow type of their kind where all are of it, else packed one by one."""
    try:
        if kind == "datetime":
            return _moments(values)
        if kind in ("string", "text"):
            types = set(map(type, values)) - _TEXTS
            if types:
                if not types <= _STRUCTURES:
                    return _packed(values)  # numbers among words: they may still become numbers
                values = [None if value is None else text_of(value) for value in values]
        elif kind == "json":
            values = [None if value is None else CONVERT["json"](value) for value in values]
        return pa.array(values, ARROW[kind])
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError, Unfit):
        return _packed(values)


_TEXTS: Final = frozenset({str, type(None)})
_STRUCTURES: Final = frozenset({list, dict})


def _moments(values: list[Json]) -> Any:
    try:
        # Arrow reads what nearly all times look like, ISO 8601 with a zone, in one go.
        return pa.array(values, pa.string()).cast(ARROW["datetime"])
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        convert = CONVERT["datetime"]
        return pa.array([None if value is None else convert(value) for value in values], ARROW["datetime"])


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
