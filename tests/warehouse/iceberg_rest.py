"""A small Iceberg REST catalog over a SQL catalog: the parts of the specification that loading uses.

https://github.com/apache/iceberg/blob/main/open-api/rest-catalog-open-api.yaml (read 2026-11).
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from pyiceberg.catalog.rest import CreateTableRequest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.table import CommitTableRequest

_STATUS: dict[type[Exception], int] = {
    NoSuchTableError: 404,
    NoSuchNamespaceError: 404,
    CommitFailedException: 409,
    TableAlreadyExistsError: 409,
    NamespaceAlreadyExistsError: 409,
}
TOKEN = "rest-catalog-token"


@contextmanager
def rest_catalog(behind: SqlCatalog) -> Iterator[str]:
    """Serve a catalog; yield its URL. Callers have to show `TOKEN`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

        def log_message(self, *_: Any) -> None:
            return

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    status, answer = 401, _error(401, "NotAuthorizedException", "who are you?")
                else:
                    status, answer = 200, _route(behind, self.command, self.path, body)
            except tuple(_STATUS) as error:
                status = _STATUS[type(error)]
                answer = _error(status, type(error).__name__, str(error))
            content = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(204 if answer is None and status == 200 else status)
            if content:
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _error(status: int, kind: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": status}}


def _route(catalog: SqlCatalog, method: str, path: str, body: bytes) -> Any:
    match [unquote(part) for part in urlsplit(path).path.strip("/").split("/")][1:]:
        case ["config"]:
            return {"defaults": {}, "overrides": {}}
        case ["namespaces"] if method == "POST":
            asked = json.loads(body)
            catalog.create_namespace(tuple(asked["namespace"]))
            return {"namespace": asked["namespace"], "properties": {}}
        case ["namespaces", namespace]:
            catalog.load_namespace_properties((namespace,))
            return None if method == "HEAD" else {"namespace": [namespace], "properties": {}}
        case ["namespaces", namespace, "tables"] if method == "GET":
            names = [name[-1] for name in catalog.list_tables((namespace,))]
            return {"identifiers": [{"namespace": [namespace], "name": name} for name in names]}
        case ["namespaces", namespace, "tables"]:
            asked_for = CreateTableRequest.model_validate({"location": None, **json.loads(body)})
            made = catalog.create_table(
                (namespace, asked_for.name),
                asked_for.table_schema,
                partition_spec=asked_for.partition_spec,  # type: ignore[arg-type]
                properties=asked_for.properties,
            )
            return _table(made)
        case ["namespaces", namespace, "tables", table] if method == "POST":
            change = CommitTableRequest.model_validate_json(body)
            found = catalog.load_table((namespace, table))
            done = catalog.commit_table(found, change.requirements, change.updates)
            return {
                "metadata-location": done.metadata_location,
                "metadata": json.loads(done.metadata.model_dump_json(by_alias=True)),
            }
        case ["namespaces", namespace, "tables", table]:
            found = catalog.load_table((namespace, table))
            return None if method == "HEAD" else _table(found)
    raise NoSuchTableError(path)


def _table(found: Any) -> dict[str, Any]:
    return {
        "metadata-location": found.metadata_location,
        "metadata": json.loads(found.metadata.model_dump_json(by_alias=True)),
        "config": {},
    }
