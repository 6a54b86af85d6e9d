"""A Databricks workspace over HTTP, as far as the loader asks: statements, files, OAuth. And what goes wrong there.

Follows https://docs.databricks.com/api/statement-execution/v1/statement-execution.md,
https://docs.databricks.com/api/files/v2/upload-file.md and
https://docs.databricks.com/aws/en/dev-tools/auth/oauth-m2m (read 2026-11). Statements run in threads of their own: one
whose client has gone is finished all the same. As a program it takes a port and a folder, and is slow now and then.
"""

import base64
import itertools
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa

from tests.warehouse.databricks_engine import Engine, SqlError, as_text, type_name

TOKEN = "dapi-0123456789abcdef"
WAREHOUSE = "1a2b3c4d5e6f7a8b"
HTTP_PATH = f"/sql/1.0/warehouses/{WAREHOUSE}"
CLIENT_ID = "a-service-principal"
CLIENT_SECRET = "dose-secret"
_INLINE_BYTES = 25 * 1024 * 1024


@dataclass
class Fault:
    """Something that goes wrong with the next requests whose line or statement holds `match`.

    Kinds: status (answers `status`), drop (the connection is cut before anything is done), cut (… after it is done),
    fail (the statement fails with `text`), slow (it is told to be under way `count` times), stuck (it never begins).
    """

    match: str
    kind: str
    times: int = 1
    status: int = 503
    retry_after: str = ""
    text: str = ""
    sqlstate: str = ""
    count: int = 2


class Statement:
    """One that was accepted."""

    def __init__(self, sql: str, parameters: dict[str, Any], disposition: str) -> None:
        self.sql = sql
        self.parameters = parameters
        self.disposition = disposition
        self.done = threading.Event()
        self.cancelled = threading.Event()
        self.result: pa.Table | None = None
        self.error: dict[str, Any] = {}
        self.sqlstate = ""
        self.unseen = 0
        """How often it is still to be told to be under way."""
        self.asked = 0


@dataclass
class Workspace:
    """What the server has and has been asked."""

    folder: Path
    default_catalog: str = "lakehouse"
    chunk_rows: int = 100
    slow_every: int = 0
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Every request's line, and every statement."""
    statements: dict[str, Statement] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {TOKEN})

    def __post_init__(self) -> None:
        self.engine = Engine(self.folder / "volumes", default_catalog=self.default_catalog)
        self.lock = threading.Lock()
        self.ids = itertools.count(1)
        self.counts: Counter[str] = Counter()

    def fault(self, *texts: str) -> Fault | None:
        """The fault that is next for such a request."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and any(fault.match in text for text in texts):
                    fault.times -= 1
                    return fault
        return None

    def said(self) -> list[str]:
        """The statements, in order."""
        return [line for line in self.asked if not line.startswith(("GET ", "POST ", "PUT ", "DELETE "))]


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
    workspace: Workspace

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        line = f"{self.command} {self.path}"
        sql = str(json.loads(body).get("statement") or "") if self.path.endswith("/statements") else ""
        self.workspace.asked += [line, sql] if sql else [line]
        fault = self.workspace.fault(line, sql)
        if fault is not None and fault.kind == "drop":
            self._cut()
            return
        if fault is not None and fault.kind == "status":
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            text = {"error_code": "TEMPORARILY_UNAVAILABLE", "message": fault.text or "come back later"}
            self._send(fault.status, json.dumps(text).encode(), headers)
            return
        try:
            status, found = self._route(body, fault)
        except _Refused as refused:
            status, found = refused.status, {"error_code": refused.code, "message": str(refused)}
        if fault is not None and fault.kind == "cut":
            self._cut()
            return
        content = found if isinstance(found, bytes) else b"" if found is None else json.dumps(found).encode()
        self._send(status, content, {})

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(2)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _route(self, body: bytes, fault: Fault | None) -> tuple[int, Any]:
        parts = urlsplit(self.path)
        place = unquote(parts.path)
        if place.startswith("/external/"):
            # Whoever has the link may read; it is another host's in truth.
            if self.headers.get("Authorization"):
                raise _Refused(400, "", "only one way to authorize is allowed")
            _, _, found, chunk = place.split("/")
            return 200, self._arrow(found, int(chunk))
        if place == "/oidc/v1/token":
            return self._token(body)
        shown = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if shown not in self.workspace.tokens:
            raise _Refused(
                401, "UNAUTHENTICATED", f"Credential {shown} was not sent or was of an unsupported type"
            )
        if place.startswith("/api/2.0/fs/files/Volumes/"):
            return self._file(place.removeprefix("/api/2.0/fs/files"), parse_qs(parts.query), body)
        match place.removeprefix("/api/2.0/sql/statements").split("/"):
            case [""] if self.command == "POST":
                return 200, self._execute(json.loads(body), fault)
            case ["", found] if self.command == "GET":
                return 200, self._status(found)
            case ["", found, "cancel"] if self.command == "POST":
                self._statement(found).cancelled.set()
                self._statement(found).unseen = 0
                return 200, {}
            case ["", found, "result", "chunks", index] if self.command == "GET":
                return 200, self._chunk(found, int(index))
        raise _Refused(404, "ENDPOINT_NOT_FOUND", f"No API found for '{self.command} {place}'")

    def _token(self, body: bytes) -> tuple[int, Any]:
        given = self.headers.get("Authorization") or ""
        if given != "Basic " + base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode():
            return 401, {"error": "invalid_client", "error_description": "Client authentication failed"}
        assert parse_qs(body.decode()) == {"grant_type": ["client_credentials"], "scope": ["all-apis"]}
        token = f"oauth-{next(self.workspace.ids)}"
        self.workspace.tokens.add(token)
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": 3600}

    # ------------------------------------------------------------ files

    def _file(self, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        file = self.workspace.engine.volumes / path.removeprefix("/Volumes/")
        if not file.parent.is_dir():
            raise _Refused(404, "NOT_FOUND", f"The directory of {path} does not exist")
        if self.command == "DELETE":
            if not file.is_file():
                raise _Refused(404, "NOT_FOUND", f"{path} does not exist")
            file.unlink()
            return 204, None
        if query.get("overwrite") == ["false"] and file.exists():
            raise _Refused(409, "ALREADY_EXISTS", f"{path} exists")
        made = file.with_name(f".{file.name}.{next(self.workspace.ids)}")
        made.write_bytes(body)
        made.rename(file)
        return 204, None

    # ------------------------------------------------------------ statements

    def _execute(self, asked: dict[str, Any], fault: Fault | None) -> Any:
        workspace = self.workspace
        if asked["warehouse_id"] != WAREHOUSE:
            raise _Refused(404, "NOT_FOUND", f"SQL warehouse {asked['warehouse_id']} does not exist")
        wait_s = int(asked["wait_timeout"].removesuffix("s"))
        if wait_s and not 5 <= wait_s <= 50:
            raise _Refused(400, "INVALID_PARAMETER_VALUE", "wait_timeout must be 0 or 5 to 50 seconds")
        if (asked["disposition"], asked["format"]) not in (
            ("INLINE", "JSON_ARRAY"),
            ("EXTERNAL_LINKS", "ARROW_STREAM"),
        ):
            raise _Refused(400, "INVALID_PARAMETER_VALUE", "no such disposition with this format")
        parameters = {
            one["name"]: int(one["value"]) if one["type"] == "BIGINT" else one["value"]
            for one in asked["parameters"]
        }
        statement = Statement(asked["statement"], parameters, asked["disposition"])
        with workspace.lock:
            number = next(workspace.ids)
        if workspace.slow_every and number % workspace.slow_every == 0:
            statement.unseen = 1
        if fault is not None and fault.kind in ("slow", "stuck"):
            statement.unseen = fault.count if fault.kind == "slow" else sys.maxsize
        found = f"01ef{number:08x}"
        workspace.statements[found] = statement
        threading.Thread(target=self._run, args=(statement, fault), daemon=True).start()
        # One that is to be told under way so many times is through before: it is not told so once more.
        if not statement.unseen or (fault is not None and fault.kind == "slow"):
            statement.done.wait(wait_s)
        return self._status(found)

    def _run(self, statement: Statement, fault: Fault | None) -> None:
        try:
            if fault is not None and fault.kind == "stuck":
                statement.cancelled.wait()
                statement.error = {"error_code": "CANCELLED", "message": "The statement was cancelled"}
            elif fault is not None and fault.kind == "fail":
                statement.error = {"error_code": "BAD_REQUEST", "message": fault.text}
                statement.sqlstate = fault.sqlstate
            else:
                statement.result = self.workspace.engine.run(statement.sql, statement.parameters)
                if statement.disposition == "INLINE" and statement.result.nbytes > _INLINE_BYTES:
                    statement.error = {"error_code": "BAD_REQUEST", "message": "Inline byte limit exceeded"}
        except SqlError as error:
            statement.error = {"error_code": "BAD_REQUEST", "message": str(error)}
            statement.sqlstate = error.sqlstate
        except Exception as error:  # noqa: BLE001 - what the tests' server can't do is said to its client
            statement.error = {"error_code": "INTERNAL_ERROR", "message": f"{type(error).__name__}: {error}"}
        finally:
            statement.done.set()

    def _statement(self, found: str) -> Statement:
        try:
            return self.workspace.statements[found]
        except KeyError:
            raise _Refused(404, "NOT_FOUND", f"The statement {found} was not found") from None

    def _status(self, found: str) -> Any:
        statement = self._statement(found)
        statement.asked += 1
        if statement.unseen or not statement.done.is_set():
            statement.unseen = max(0, statement.unseen - 1)
            return {
                "statement_id": found,
                "status": {"state": "PENDING" if statement.asked == 1 else "RUNNING"},
            }
        if statement.error:
            state = "CANCELED" if statement.cancelled.is_set() else "FAILED"
            status: dict[str, Any] = {"state": state, "error": statement.error}
            if statement.sqlstate:
                status["sql_state"] = statement.sqlstate
            return {"statement_id": found, "status": status}
        assert statement.result is not None
        rows = statement.result.num_rows
        return {
            "statement_id": found,
            "status": {"state": "SUCCEEDED"},
            "manifest": {
                "format": "JSON_ARRAY" if statement.disposition == "INLINE" else "ARROW_STREAM",
                "schema": {
                    "column_count": statement.result.num_columns,
                    "columns": [
                        {"name": one.name, "position": index, "type_name": type_name(one.type)}
                        for index, one in enumerate(statement.result.schema)
                    ],
                },
                "total_row_count": rows,
                "total_chunk_count": -(-rows // self.workspace.chunk_rows),
                "truncated": False,
            },
            "result": self._chunk(found, 0),
        }

    def _chunk(self, found: str, index: int) -> Any:
        statement, step = self._statement(found), self.workspace.chunk_rows
        assert statement.result is not None
        part = statement.result.slice(index * step, step)
        chunk: dict[str, Any] = {
            "chunk_index": index,
            "row_offset": index * step,
            "row_count": part.num_rows,
        }
        if (index + 1) * step < statement.result.num_rows:
            chunk["next_chunk_index"] = index + 1
            link = (
                f"/api/2.0/sql/statements/{found}/result/chunks/{index + 1}?row_offset={(index + 1) * step}"
            )
            chunk["next_chunk_internal_link"] = link
        if statement.disposition == "EXTERNAL_LINKS":
            link = f"http://{self.headers['Host']}/external/{found}/{index}?signature=secret"
            return {"external_links": [{**chunk, "external_link": link}]} if part.num_rows else {}
        if part.num_rows:
            chunk["data_array"] = [[as_text(value) for value in row.values()] for row in _rows(part)]
        return chunk

    def _arrow(self, found: str, index: int) -> bytes:
        result, step = self._statement(found).result, self.workspace.chunk_rows
        assert result is not None
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, result.schema) as stream:
            stream.write_table(result.slice(index * step, step))
        return bytes(sink.getvalue())


def _rows(part: "pa.Table") -> Iterator[dict[int, Any]]:
    for row in zip(*(column.to_pylist() for column in part.columns), strict=True):
        yield dict(enumerate(row))


def _server(workspace: Workspace, port: int) -> ThreadingHTTPServer:
    handler = type("Bound", (Handler,), {"workspace": workspace})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    return server


@contextmanager
def serving(workspace: Workspace) -> Iterator[int]:
    """Serve a workspace in this process; yields the port."""
    server = _server(workspace, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Serve on a port, files in a folder: `python -m tests.warehouse.databricks_server PORT FOLDER`."""
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    _server(Workspace(folder, slow_every=7), port).serve_forever()


if __name__ == "__main__":
    main()
