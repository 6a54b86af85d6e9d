"""Run by fakesnow's own interpreter (`fakesnow.py`): its server, with what a connector 5 and a loader ask of Snowflake.

Each addition has its reason here. What is Snowflake's behaviour and not fakesnow's is made as Snowflake documents it
(https://docs.snowflake.com/en/sql-reference/transactions):

* UPDATE, DELETE and MERGE of a table wait while another session's transaction has changed it so; INSERT and COPY
  do not.
* A transaction that others wait for is rolled back when it has been idle for a while: 5 minutes there, 2 s here.
* A statement sees what was committed before it, not before BEGIN: so DuckDB's transaction, which sees one state, is
  begun with the first statement, after the wait.
"""

import asyncio
import gzip
import importlib
import json
import re
import sys
import time
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

IDLE_S = 2.0
STRANGER = "STRANGER"
_LOCKING = re.compile(r'\s*(?:UPDATE|DELETE\s+FROM|MERGE\s+INTO)\s+("[^"]+"\."[^"]+")', re.IGNORECASE)
_DML = re.compile(r"\s*(?:INSERT|UPDATE|DELETE|MERGE|COPY)\b", re.IGNORECASE)
_DDL = re.compile(r"\s*(?:CREATE|ALTER|DROP|USE)\b", re.IGNORECASE)
_BEGIN = re.compile(r"\s*BEGIN\b", re.IGNORECASE)
_END = re.compile(r"\s*(?:COMMIT|ROLLBACK)\b", re.IGNORECASE)
_CONFLICT = 625
"""Snowflake's code for a statement that gave up waiting for another transaction."""

# The package has a function of that name too.
server: Any = importlib.import_module("fakesnow.server")


class Session:
    """What one session holds."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.begins = False
        self.transaction = 0
        self.busy = False
        self.last_s = time.monotonic()


sessions: dict[str, Session] = {}
holders: dict[str, Session] = {}
ddl = asyncio.Lock()
numbers = iter(range(1, sys.maxsize))


async def login(request: Request) -> Response:
    """A connector 5 wants a master token and a session's id, and fakesnow a boolean. One user is let in nowhere."""
    body = json.loads(_body_of(request, await request.body()))
    if body["data"].get("LOGIN_NAME") == STRANGER:
        message = "Incorrect username or password was specified."
        return JSONResponse({"data": {}, "code": "390100", "message": message, "success": False})
    parameters = body["data"]["SESSION_PARAMETERS"]
    parameters["AUTOCOMMIT"] = str(parameters.get("AUTOCOMMIT", True)).lower() == "true"
    answer = json.loads((await server.login_request(_with_body(request, body))).body)
    number = next(numbers)
    answer["data"] |= {"masterToken": f"master-{number}", "sessionId": number}
    answer["data"] |= {"validityInSeconds": 3600, "masterValidityInSeconds": 14_400}
    return JSONResponse(answer)


async def query(request: Request) -> Response:
    """A statement, with Snowflake's locks around it."""
    body = json.loads(_body_of(request, await request.body()))
    token = server.to_token(request)
    session = sessions.setdefault(token, Session(token))
    session.busy = True
    try:
        return await _run(request, body, session)
    finally:
        session.busy, session.last_s = False, time.monotonic()


async def _run(request: Request, body: dict[str, Any], session: Session) -> Response:
    sql = body["sqlText"]
    if _BEGIN.match(sql):
        session.begins, session.transaction = True, session.transaction or next(numbers)
        return await _answer(request, body | {"sqlText": "SELECT 'Statement executed successfully.'"})
    sql = sql.replace("CURRENT_TRANSACTION()", f"'{session.transaction}'" if session.transaction else "NULL")
    if locking := _LOCKING.match(sql):
        await _lock(locking[1].upper(), session)
    if _DDL.match(sql):
        session.transaction, session.begins = 0, False
        _release(session)
        async with ddl:
            return await _answer(request, body)
    if _END.match(sql):
        try:
            return await _answer(request, body)
        finally:
            session.transaction, session.begins = 0, False
            _release(session)
    if session.begins and "CURRENT_TRANSACTION()" not in body["sqlText"]:
        session.begins = False
        await asyncio.to_thread(server.sessions[session.token].cursor().execute, "BEGIN")
    if _DML.match(sql) and not session.transaction:
        session.transaction = next(numbers)  # AUTOCOMMIT is off: it begins one
    return await _answer(request, body | {"sqlText": sql})


async def _lock(table: str, session: Session) -> None:
    while (holder := holders.get(table)) not in (None, session):
        assert holder is not None
        if not holder.busy and time.monotonic() - holder.last_s > IDLE_S:
            if holder.token in server.sessions:
                await asyncio.to_thread(server.sessions[holder.token].rollback)
            holder.transaction, holder.begins = 0, False
            _release(holder)
        await asyncio.sleep(0.01)
    holders[table] = session


def _release(session: Session) -> None:
    for table in [table for table, holder in holders.items() if holder is session]:
        del holders[table]


async def end(request: Request) -> Response:
    """A session that ends takes its transaction with it."""
    token = server.to_token(request)
    connection = server.sessions.get(token)
    answer: Response = await server.session(request)
    if request.query_params.get("delete") and connection is not None:
        await asyncio.to_thread(connection.close)
        _release(sessions.pop(token, Session(token)))
    return answer


async def _answer(request: Request, body: dict[str, Any]) -> Response:
    answer: Response = await server.query_request(_with_body(request, body))
    if answer.status_code != 500:
        return answer
    # Of what DuckDB refuses, fakesnow knows no code for a conflict between transactions: the connector would try it
    # again and again.
    message = json.loads(bytes(answer.body))["message"]
    code = f"{_CONFLICT:06d}"
    return JSONResponse(
        {
            "data": {"errorCode": code, "sqlState": "57014"},
            "code": code,
            "message": message,
            "success": False,
        }
    )


def _body_of(request: Request, body: bytes) -> bytes:
    return gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body


def _with_body(request: Request, body: dict[str, Any]) -> Request:
    data = json.dumps(body).encode()
    request._body = gzip.compress(data) if request.headers.get("Content-Encoding") == "gzip" else data
    return request


def _extend() -> None:
    copy: Any = importlib.import_module("fakesnow.copy_into")
    transforms: Any = importlib.import_module("fakesnow.transforms")

    put_stage: Any = transforms.put_stage

    def put_as_told(expression: Any, *rest: Any, **more: Any) -> Any:
        """OVERWRITE = TRUE is heard: a connector 5 asks a server for more if it is not to overwrite."""
        made = put_stage(expression, *rest, **more)
        if data := made.args.get("put_stage_data"):
            data["overwrite"] = True
        return made

    stage_info: Any = server.gcs_stage_info
    describe: Any = copy._describe_table

    def describe_temporary(table: Any, connection: Any, *rest: Any) -> Any:
        """COPY finds a temporary table, which in DuckDB has no schema."""
        sql = "SELECT 1 FROM duckdb_tables() WHERE temporary AND table_name = ?"
        if not table.db and connection.execute(sql, [table.name]).fetchone():
            return [row[:2] for row in connection.execute(f'DESCRIBE "{table.name}"').fetchall()]
        return describe(table, connection, *rest)

    transforms.put_stage = put_as_told
    server.gcs_stage_info = lambda *given: stage_info(*given) | {"region": "us-central1"}
    copy._describe_table = describe_temporary
    own = {
        "/session/v1/login-request": login,
        "/queries/v1/query-request": query,
        "/session": end,
        "/telemetry/send": _swallow,
    }
    kept = [route for route in server.app.router.routes if route.path not in own]
    server.app.router.routes[:] = [
        *(Route(path, does, methods=["POST"]) for path, does in own.items()),
        *kept,
    ]


async def _swallow(_request: Request) -> Response:
    return JSONResponse({"success": True})


if __name__ == "__main__":
    _extend()
    uvicorn.run(server.app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
