"""Columns: the stamps and the common fields as columns, the client's JSON as a string.

The columns are those of a line (`line.py`) in snake case, plus `event`, `user_id` and `anonymous_id` from the
event, for queries. The source id is also a column, so that a file means the same outside its folder. The rows of an
archive in Iceberg are these, too (`iceberg_table`).
"""

from collections.abc import Sequence
from typing import Any, BinaryIO, Final, cast

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from mainstem.events.canonical import id_text
from mainstem.events.stored import StoredEvent
from mainstem.lake.line import ArchivedEvent

_TEXT: Final = pa.string()
_FIELDS: "Final[list[pa.Field[Any]]]" = [
    pa.field("received_at", pa.timestamp("ms", tz="UTC"), nullable=False),
    pa.field("source_id", _TEXT, nullable=False),
    pa.field("message_id", _TEXT, nullable=False),
    pa.field("type", _TEXT, nullable=False),
    pa.field("event", _TEXT),
    pa.field("user_id", _TEXT),
    pa.field("anonymous_id", _TEXT),
    pa.field("partition", pa.int32(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("sequence", pa.int64(), nullable=False),
    pa.field("request_ip", _TEXT),
    pa.field("sent_at", _TEXT),
    pa.field("kind", _TEXT, nullable=False),
    pa.field("reason", _TEXT),
    pa.field("message_id_made", pa.bool_(), nullable=False),
    pa.field("repaired", pa.bool_(), nullable=False),
    pa.field("channel", _TEXT),
    pa.field("user_agent", _TEXT),
    pa.field("batch_integrations", _TEXT),
    pa.field("batch_context", _TEXT),
    pa.field("raw", _TEXT),
    pa.field("raw_bytes", pa.binary()),
]
SCHEMA: Final = pa.schema(_FIELDS)
# Dictionaries help where values repeat; on ids and bodies they only cost.
_DICTIONARY: Final = [
    "source_id", "type", "event", "request_ip", "kind", "reason", "channel", "user_agent",
    "batch_integrations", "batch_context",
]  # fmt: skip


class _Common(msgspec.Struct, rename="camel", gc=False):
    user_id: Any = None
    anonymous_id: Any = None
    event: Any = None
    name: Any = None


_decode_common: Final = msgspec.json.Decoder(_Common).decode


def _common(raw: bytes) -> _Common:
    try:
        return _decode_common(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Common()  # a rejected event may be anything


class Columns:
    """Rows of events, gathered column by column."""

    def __init__(self, schema: pa.Schema = SCHEMA) -> None:
        """
        Args:
            schema: `SCHEMA`, or with more columns after it.
        """
        self._schema = schema
        self._columns: list[list[Any]] = [[] for _ in schema]

    def __len__(self) -> int:
        return len(self._columns[0])

    def add(self, event: StoredEvent, partition: int, offset: int, sequence: int, *more: Any) -> None:
        """Add an event, with the values of what columns there are after `SCHEMA`."""
        common = _common(event.raw)
        name = common.event if event.type == "track" else common.name
        try:
            raw, raw_bytes = event.raw.decode(), None
        except UnicodeDecodeError:
            raw, raw_bytes = None, event.raw
        row = (
            event.received_at_ms,
            event.source_id,
            event.message_id,
            event.type,
            name if isinstance(name, str) else None,
            id_text(common.user_id) or None,
            id_text(common.anonymous_id) or None,
            partition,
            offset,
            sequence,
            event.request_ip or None,
            event.sent_at or None,
            event.kind,
            event.reason or None,
            event.message_id_made,
            event.repaired,
            event.channel or None,
            event.user_agent or None,
            event.batch_integrations.decode() or None,
            event.batch_context.decode() or None,
            raw,
            raw_bytes,
            *more,
        )
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)

    def take(self) -> pa.RecordBatch:
        """Return what was added, and begin anew."""
        arrays = [
            pa.array(values, field.type) for values, field in zip(self._columns, self._schema, strict=True)
        ]
        for column in self._columns:
            column.clear()
        return pa.record_batch(arrays, schema=self._schema)


class ColumnWriter:
    """Writes one Parquet file, a row group at a time."""

    def __init__(self, out: BinaryIO) -> None:
        self._writer = pq.ParquetWriter(
            out,
            SCHEMA,
            compression="zstd",
            use_dictionary=cast("bool", _DICTIONARY),  # the stubs know of all columns or none only
        )
        self._columns = Columns()

    def add(self, event: StoredEvent, partition: int, offset: int, sequence: int) -> None:
        self._columns.add(event, partition, offset, sequence)

    def end_row_group(self) -> None:
        """Write what was added."""
        if self._columns:
            self._writer.write_batch(self._columns.take())

    def close(self) -> None:
        self.end_row_group()
        self._writer.close()


def read_columns(content: bytes) -> Sequence[ArchivedEvent]:
    """Return the events of a Parquet file, in its order.

    Raises:
        ValueError: the bytes are not such a file (pyarrow's errors are ValueErrors, or OSErrors).
    """
    return events_of(pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False))


def events_of(rows: pa.Table) -> Sequence[ArchivedEvent]:
    """Return the events of rows with the columns of `SCHEMA`, in their order."""
    received: list[Any] = rows.column("received_at").cast(_FIELDS[0].type).cast(pa.int64()).to_pylist()
    columns: dict[str, list[Any]] = {
        name: rows.column(name).to_pylist() for name in SCHEMA.names if name != "received_at"
    }
    return [
        ArchivedEvent(
            StoredEvent(
                source_id=columns["source_id"][i],
                message_id=columns["message_id"][i],
                type=columns["type"][i],
                received_at_ms=received[i],
                raw=columns["raw_bytes"][i] if columns["raw"][i] is None else columns["raw"][i].encode(),
                request_ip=columns["request_ip"][i] or "",
                sent_at=columns["sent_at"][i] or "",
                kind=columns["kind"][i],
                reason=columns["reason"][i] or "",
                message_id_made=columns["message_id_made"][i],
                repaired=columns["repaired"][i],
                batch_integrations=(columns["batch_integrations"][i] or "").encode(),
                batch_context=(columns["batch_context"][i] or "").encode(),
                channel=columns["channel"][i] or "",
                user_agent=columns["user_agent"][i] or "",
            ),
            columns["partition"][i],
            columns["offset"][i],
            columns["sequence"][i],
        )
        for i in range(rows.num_rows)
    ]
