"""A blocking connection that speaks Postgres' protocol, over asyncpg; and rows for its COPY.

loaders `postgres`, `redshift` -> **this** -> the server. asyncpg is asynchronous and loaders block, wherever they are
called from: so each connection has a thread with a loop of its own.

COPY takes CSV, written by Arrow batch by batch as the server reads it: memory stays at a few batches whatever the
file's size, and the server itself turns texts into the types its columns have (`numeric`, `jsonb`, what somebody else
made).
"""

import asyncio
import contextlib
import io
import re
import ssl
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from mainstem.secret import Secret
from mainstem.warehouse.loader import WarehouseError
from mainstem.warehouse.loaders.batches import small_batches
from mainstem.warehouse.schema import Columns

T = TypeVar("T")

_CONNECT_TIMEOUT_S: Final = 20.0
_CLOSE_TIMEOUT_S: Final = 5.0
_CSV: Final = pa_csv.WriteOptions(include_header=False, quoting_style="all_valid")
_QUESTION: Final = re.compile(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'|\?')
_COMMAND: Final = re.compile(
    r"(?:BEGIN|COMMIT|ROLLBACK|SET|LOCK|CREATE|ALTER|DROP|ANALYZE|DELETE FROM|INSERT INTO)\b"
)
"""What begins so returns no rows: none of our statements has RETURNING."""
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL
)
_VALUE: Final = re.compile(r'"[^"]*("|$)')
_DATA: Final = "22"
"""In this class of errors the server repeats the value: that is payload, and stays out of what is logged."""


class PgError(WarehouseError):
    """The server refused or is not there.

    Attributes:
        sqlstate: the server's code, of https://www.postgresql.org/docs/current/errcodes-appendix.html; empty if the
            server said nothing.
    """

    def __init__(self, text: str, sqlstate: str = "") -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


class PgWire:
    """One connection. Blocking; one thread at a time."""

    def __init__(
        self, *, host: str, port: int, database: str, user: str, password: Secret, tls: ssl.SSLContext | str
    ) -> None:
        """
        Args:
            tls: a context, or one of libpq's words: disable, prefer, require.

        Raises:
            PgError: there is no connection; the text says what to do.
        """
        self._place = f"{host}:{port}/{database}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"wire to {host}", daemon=True)
        self._thread.start()
        try:
            self._connection = self._wait(
                asyncpg.connect(
                    host=host,
                    port=port,
                    database=database,
                    user=user,
                    password=password.reveal() or None,
                    ssl=tls,
                    timeout=_CONNECT_TIMEOUT_S,
                    # Poolers in transaction mode (PgBouncer) know no prepared statements with names.
                    statement_cache_size=0,
                )
            )
        except PgError as error:
            self._end()
            raise PgError(f"{self._place}: {_connect_words(error)}", error.sqlstate) from error.__cause__

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        """Run one statement, `?` for parameters, and return its rows.

        Raises:
            PgError: it failed.
        """
        if not parameters and _COMMAND.match(sql):
            # One way to the server and back; what may return rows is prepared first, which is one more.
            self._wait(self._connection.execute(sql))
            return []
        rows = self._wait(self._connection.fetch(numbered(sql) if parameters else sql, *parameters))
        return [tuple(row) for row in rows]

    def copy(self, table: str, columns: Sequence[str], blocks: Iterable[bytes], schema: str | None) -> None:
        """Put CSV into a table, in the columns' order.

        Args:
            blocks: whole lines, as many as one likes in each.
            schema: None = a temporary table.

        Raises:
            PgError: it failed; none of it is in.
        """

        async def source() -> AsyncIterator[bytes]:
            for block in blocks:
                yield block

        self._wait(
            self._connection.copy_to_table(
                table, source=source(), columns=list(columns), schema_name=schema, format="csv"
            )
        )

    def close(self) -> None:
        """End the connection; what is not committed is gone."""
        if self._thread.is_alive():
            with contextlib.suppress(PgError):
                self._wait(self._connection.close(timeout=_CLOSE_TIMEOUT_S))
        self._end()

    def _end(self) -> None:
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()

    def _wait(self, awaited: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            awaited.close()
            raise PgError("the connection is closed")
        future = asyncio.run_coroutine_threadsafe(awaited, self._loop)
        try:
            return future.result()
        except asyncpg.PostgresError as error:
            raise PgError(_words(error), error.sqlstate or "") from error
        except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError) as error:
            raise PgError(f"no connection: {error or type(error).__name__}") from error
        except BaseException:
            future.cancel()
            raise


def _words(error: asyncpg.PostgresError) -> str:
    text = str(error.args[0]) if error.args else type(error).__name__
    if (error.sqlstate or "").startswith(_DATA):
        text = _VALUE.sub("…", text)
        column = re.search(r"column (\S+?)(?::|$)", getattr(error, "context", None) or "")
        if column is not None:
            text += f" (column {column[1]})"
    return text[:500]


def _connect_words(error: PgError) -> str:
    text = str(error)
    match error.sqlstate:
        case "28P01" | "28000":
            return f"{text}; see that `user`, `password` and the server's pg_hba.conf agree"
        case "3D000":
            return f"{text}; create it, or correct `database`"
        case "53300":
            return f"{text}; raise max_connections, or use a pooler"
        case "":
            return (
                f"{text}; see that `host` and `port` are right, that the server can be reached, and `sslMode`"
            )
        case _:
            return text


def numbered(sql: str) -> str:
    """Return SQL with `$1`, `$2` … for its question marks outside of quotes."""
    count = 0

    def replace(found: re.Match[str]) -> str:
        nonlocal count
        if found[0] != "?":
            return found[0]
        count += 1
        return f"${count}"

    return _QUESTION.sub(replace, sql)


def csv_blocks(path: Path, columns: Columns, more: Mapping[str, Any] | None = None) -> Iterator[bytes]:
    """Yield a Parquet file's rows as CSV, a few megabytes at a time.

    Nulls are empty, and everything else is quoted, so that empty texts stay texts. What Postgres can't hold is taken
    out: NUL characters, in JSON their escape too; halves of surrogate pairs in JSON become U+FFFD.

    Args:
        columns: which, in order.
        more: columns that have one value in all rows, behind them.
    """
    for batch in small_batches(path, list(columns)):
        arrays = [
            clean_texts(array, kind == "json") if pa.types.is_string(array.type) else array
            for kind, array in zip(columns.values(), batch.columns, strict=True)
        ]
        arrays += [pa.array([value] * batch.num_rows) for value in (more or {}).values()]
        buffer = io.BytesIO()
        pa_csv.write_csv(pa.table(arrays, names=[*columns, *(more or {})]), buffer, _CSV)
        yield buffer.getvalue()


def clean_texts(array: Any, is_json: bool) -> Any:
    """Return texts without NUL characters; JSON without what `clean_json` takes out."""
    if pc.any(pc.match_substring(array, "\0")).as_py():
        array = pc.replace_substring(array, "\0", "")
    if is_json and pc.any(pc.match_substring_regex(array, r"\\u(0000|[dD][89a-fA-F])")).as_py():
        values = [value if value is None else clean_json(value) for value in array.to_pylist()]
        array = pa.array(values, pa.string())
    return array


def clean_json(text: str) -> str:
    """Return JSON that `jsonb` takes: without the escapes of NUL and of halves of surrogate pairs."""

    def replace(found: re.Match[str]) -> str:
        escape = found[0].lower()
        if escape == r"\u0000":
            return ""
        if len(escape) == 6 and escape[2] == "d" and escape[3] in "89abcdef":
            return "\ufffd"
        return found[0]

    return _ESCAPE.sub(replace, text)
