"""BigQuery's REST API over `engine`: datasets, tables, jobs, uploads, results; and faults.

https://docs.cloud.google.com/bigquery/docs/reference/rest (read 2026-11). Run as a program:
`python -m tests.warehouse.bigquery_server.api PORT`. Beside the API it answers `POST /faults` (a list of `Fault`),
`GET /statements` and `POST /engine` for the tests.
"""

import json
import re
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from tests.warehouse.bigquery_server.engine import Engine, Refusal, Result, conflict

_ANSWER_AFTER_S = 0.2
"""A job that is through by then is answered as such."""
_SLOW_S = 0.3


class Fault(msgspec.Struct):
    """Something that goes wrong, so many times."""

    do: Literal["503", "rateLimitExceeded", "cut before", "cut after", "job", "statement", "conflict", "slow"]
    """503, rateLimitExceeded: the request is refused. cut before, after: its connection is cut before or after it is
    carried out. job: a job fails. statement: a script fails at a statement. conflict: there, by a concurrent update.
    slow: a statement takes a while, so that transactions overlap."""
    of: str = ""
    """Regular expression, found in `METHOD /path`, or in the SQL."""
    times: int = 1
    skip: int = 0
    """Let so many pass first."""
    reason: str = "backendError"
    """Of job and statement."""
    message: str = "An internal error occurred"


class Job:
    """One job."""

    def __init__(self, project: str, reference: Mapping[str, Any], configuration: dict[str, Any]) -> None:
        self.project = project
        self.id = str(reference.get("jobId") or uuid.uuid4())
        self.location = str(reference.get("location") or "US")
        self.configuration = configuration
        self.done = threading.Event()
        self.refusal: Refusal | None = None
        self.result: Result | None = None
        self.rows = 0

    def resource(self) -> dict[str, Any]:
        reference = {"projectId": self.project, "jobId": self.id, "location": self.location}
        now = str(int(time.time() * 1000))
        status: dict[str, Any] = {"state": "DONE" if self.done.is_set() else "RUNNING"}
        statistics: dict[str, Any] = {"creationTime": now, "startTime": now}
        if self.done.is_set():
            statistics["endTime"] = now
            if self.refusal is not None:
                status["errorResult"] = {"reason": self.refusal.reason, "message": str(self.refusal)}
                status["errors"] = [status["errorResult"]]
            elif "load" in self.configuration:
                statistics["load"] = {"outputRows": str(self.rows)}
            else:
                statistics["query"] = {"statementType": "SELECT" if self.result else "SCRIPT"}
        return {
            "kind": "bigquery#job",
            "id": f"{self.project}:{self.location}.{self.id}",
            "jobReference": reference,
            "configuration": self.configuration,
            "status": status,
            "statistics": statistics,
        }


class Service:
    """What all requests share."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.jobs: dict[tuple[str, str], Job] = {}
        self.uploads: dict[str, tuple[str, dict[str, Any], bytearray]] = {}
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        engine.before = self._before

    def fault(self, text: str, *kinds: str) -> Fault | None:
        """Return what is to go wrong now."""
        with self.lock:
            for fault in self.faults:
                if fault.do in kinds and fault.times > 0 and re.search(fault.of, text):
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def _before(self, statement: str) -> None:
        if self.fault(statement, "slow"):
            time.sleep(_SLOW_S)
        fault = self.fault(statement, "statement", "conflict")
        if fault is not None:
            if fault.do == "conflict":
                raise conflict("the table")
            raise Refusal(fault.reason, fault.message)

    def submit(
        self, project: str, reference: Mapping[str, Any], configuration: dict[str, Any], content: bytes = b""
    ) -> Job:
        """Begin a job; a second one of an id is refused."""
        job = Job(project, reference, configuration)
        with self.lock:
            if (project, job.id) in self.jobs:
                raise Refusal("duplicate", f"Already Exists: Job {project}:{job.location}.{job.id}", 409)
            self.jobs[project, job.id] = job
        threading.Thread(target=self._work, args=(job, content), daemon=True).start()
        job.done.wait(_ANSWER_AFTER_S)
        return job

    def job(self, project: str, job_id: str) -> Job:
        try:
            return self.jobs[project, job_id]
        except KeyError:
            raise Refusal("notFound", f"Not found: Job {project}:{job_id}", 404) from None

    def _work(self, job: Job, content: bytes) -> None:
        try:
            fault = self.fault(json.dumps(job.configuration), "job")
            if fault is not None:
                raise Refusal(fault.reason, fault.message)
            if "load" in job.configuration:
                with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
                    Path(file.name).write_bytes(content)
                    job.rows = self.engine.load(job.project, job.configuration["load"], Path(file.name))
            else:
                query = job.configuration["query"]
                parameters = {one["name"]: _parameter(one) for one in query.get("queryParameters", [])}
                job.result = self.engine.run(job.project, job.location, query["query"], parameters)
        except Refusal as refusal:
            job.refusal = refusal
        except Exception as error:  # noqa: BLE001 - a job that is never through helps nobody
            job.refusal = Refusal("internalError", f"the tests' server: {type(error).__name__}: {error}")
        finally:
            job.done.set()


def _parameter(resource: Mapping[str, Any]) -> Any:
    kind, value = resource["parameterType"]["type"], resource["parameterValue"].get("value")
    if value is None:
        return None
    match kind:
        case "INT64":
            return int(value)
        case "FLOAT64":
            return float(value)
        case "BOOL":
            return value == "true"
        case "TIMESTAMP":
            return datetime.fromisoformat(value.replace(" ", "T", 1).replace("Z", "+00:00"))
        case _:
            return value


def _cell(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime) and kind == "TIMESTAMP":
        since = value - datetime(1970, 1, 1, tzinfo=value.tzinfo)
        return str((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)
    if isinstance(value, float):
        return repr(value)
    return str(value)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
    service: Service

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
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        service, what = self.service, f"{self.command} {unquote(self.path)}"
        headers: dict[str, str] = {}
        cut_after = None
        try:
            if not self.path.startswith(("/faults", "/statements", "/engine")):
                if service.fault(what, "cut before"):
                    self.close_connection = True
                    return
                if service.fault(what, "503"):
                    raise Refusal(
                        "backendError", "Error encountered during execution. Retrying may help.", 503
                    )
                if service.fault(what, "rateLimitExceeded"):
                    raise Refusal("rateLimitExceeded", "Exceeded rate limits: too many api requests", 403)
                cut_after = service.fault(what, "cut after")
            status, answer = self._route(body, headers)
        except Refusal as refusal:
            status = refusal.status
            one = {"reason": refusal.reason, "message": str(refusal), "domain": "global"}
            answer = {
                "error": {"code": status, "message": str(refusal), "errors": [one], "status": refusal.reason}
            }
        if cut_after:
            self.close_connection = True
            return
        content = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _route(self, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        path = [unquote(part) for part in parts.path.strip("/").split("/")]
        service, engine = self.service, self.service.engine
        match [self.command, *path]:
            case ["POST", "faults"]:
                service.faults = msgspec.json.decode(body, type=list[Fault])
                return 200, {}
            case ["POST", "engine"]:
                engine.by_table = json.loads(body)["by_table"]
                return 200, {}
            case ["GET", "statements"]:
                return 200, list(engine.statements)
            case ["POST" | "PUT", "upload", "bigquery", "v2", "projects", project, "jobs"]:
                return self._upload(project, query, body, headers)
            case [method, "bigquery", "v2", "projects", project, *rest]:
                return self._of_project(method, project, rest, query, json.loads(body) if body else {})
        raise Refusal("notFound", f"no such path: {self.path}", 404)

    def _of_project(
        self, method: str, project: str, rest: list[str], query: Mapping[str, list[str]], asked: Any
    ) -> tuple[int, Any]:
        service, engine = self.service, self.service.engine
        match [method, *rest]:
            case ["POST", "datasets"]:
                return 200, engine.make_dataset(project, asked["datasetReference"]["datasetId"], asked)
            case ["GET", "datasets", dataset]:
                return 200, engine.dataset(project, dataset)
            case ["POST", "datasets", dataset, "tables"]:
                name = asked["tableReference"]["tableId"]
                engine.make_table(project, dataset, name, asked)
                return 200, self._table(project, dataset, name)
            case ["GET", "datasets", dataset, "tables", table]:
                return 200, self._table(project, dataset, table)
            case ["DELETE", "datasets", dataset, "tables", table]:
                engine.drop_table(project, dataset, table)
                return 204, None
            case ["POST", "jobs"]:
                job = service.submit(project, asked.get("jobReference", {}), asked["configuration"])
                return 200, job.resource()
            case ["GET", "jobs", job_id]:
                return 200, service.job(project, job_id).resource()
            case ["GET", "queries", job_id]:
                return 200, self._results(service.job(project, job_id), query)
        raise Refusal("notFound", f"no such path: {self.path}", 404)

    def _table(self, project: str, dataset: str, table: str) -> dict[str, Any]:
        engine = self.service.engine
        fields = engine.schema(project, dataset, table)
        made = engine.tables.get((project, dataset, table), {})
        return {
            "kind": "bigquery#table",
            "type": "TABLE",
            "tableReference": {"projectId": project, "datasetId": dataset, "tableId": table},
            "schema": {"fields": fields},
            "numRows": str(engine.count(project, dataset, table)),
            **{name: made[name] for name in ("expirationTime", "labels") if name in made},
        }

    def _results(self, job: Job, query: Mapping[str, list[str]]) -> dict[str, Any]:
        job.done.wait(float(query.get("timeoutMs", ["10000"])[0]) / 1000)
        reference = job.resource()["jobReference"]
        if not job.done.is_set():
            return {"jobReference": reference, "jobComplete": False}
        if job.refusal is not None:
            raise job.refusal
        found = job.result or Result([], [], [])
        rows = found.rows[: int(query.get("maxResults", ["1000000"])[0])]
        if (
            rows
            and query.get("formatOptions.useInt64Timestamp", ["false"])[0].lower() != "true"
            and any(kind == "TIMESTAMP" for kind in found.kinds)
        ):
            raise Refusal("invalid", "only 64 bit timestamps are sent here")
        answer = {
            "jobReference": reference,
            "jobComplete": True,
            "totalRows": str(len(found.rows)),
            "schema": {
                "fields": [
                    {"name": name, "type": kind, "mode": "NULLABLE"}
                    for name, kind in zip(found.names, found.kinds, strict=True)
                ]
            },
        }
        if rows:
            answer["rows"] = [
                {"f": [{"v": _cell(value, kind)} for value, kind in zip(row, found.kinds, strict=True)]}
                for row in rows
            ]
        return answer

    def _upload(
        self, project: str, query: Mapping[str, list[str]], body: bytes, headers: dict[str, str]
    ) -> tuple[int, Any]:
        service = self.service
        match query.get("uploadType", [""])[0]:
            case "multipart":
                boundary = self.headers["Content-Type"].split("boundary=")[1].strip('"').encode()
                _, first, second, _ = body.split(b"--" + boundary)
                asked = json.loads(first.split(b"\r\n\r\n", 1)[1])
                content = second.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
            case "resumable" if "upload_id" not in query:
                session = uuid.uuid4().hex
                service.uploads[session] = (project, json.loads(body), bytearray())
                host = self.headers["Host"]
                headers["Location"] = (
                    f"http://{host}/upload/bigquery/v2/projects/{project}/jobs?uploadType=resumable&upload_id={session}"
                )
                return 200, {}
            case _:
                _, asked, held = service.uploads[query["upload_id"][0]]
                given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", self.headers["Content-Range"])
                if given is None or int(given[1]) != len(held):
                    raise Refusal("invalid", "chunks out of order")
                held += body
                if given[3] == "*" or len(held) < int(given[3]):
                    headers["Range"] = f"bytes=0-{len(held) - 1}"
                    return 308, None
                content = bytes(held)
        job = service.submit(project, asked.get("jobReference", {}), asked["configuration"], content)
        return 200, job.resource()


def serve(port: int) -> None:
    """Serve until the process ends."""
    handler = type("BoundHandler", (Handler,), {"service": Service(Engine())})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
