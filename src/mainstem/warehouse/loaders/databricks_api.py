"""Databricks over HTTP: statements run on a SQL warehouse, files put into a volume. Used by `loaders.databricks`.

Follows https://docs.databricks.com/api/statement-execution/v1/statement-execution.md and
https://docs.databricks.com/api/files/v2/upload-file.md, OAuth by
https://docs.databricks.com/aws/en/dev-tools/auth/oauth-m2m (read 2026-11).

**Everything is sent again** when no answer came, or one that says "later" (429, 503 and the like; `Retry-After` is
heeded): whoever uses this says nothing that would do harm twice. Redirects are not followed, the token goes to one
host only.
"""

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote, urlencode

import msgspec
import pyarrow as pa
from pyreqwest.client import SyncClient, SyncClientBuilder
from pyreqwest.exceptions import DetailedPyreqwestError, PyreqwestError

from mainstem.secret import NO_SECRET, Secret
from mainstem.warehouse.loader import WarehouseError

Value = str | int | None
Row = Sequence[str | None]

_WAIT_S: Final = 30
"""How long the server holds a request for a result before it tells that it goes on (5 to 50)."""
_REQUEST_S: Final = 90.0
_UPLOAD_S: Final = 1_800.0
_STATEMENT_S: Final = 1_800.0
"""A statement that takes longer is cancelled: a warehouse that starts, or one with a queue, is included."""
_POLL_S: Final = (0.2, 5.0)
_TRIES: Final = 6
_PAUSE_S: Final = (0.5, 20.0)
_LONGEST_PAUSE_S: Final = 60.0
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_RENEW_BEFORE_S: Final = 120.0
_PART_BYTES: Final = 1024 * 1024
_CONDITION: Final = re.compile(r"\[([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*)\]")
_SQLSTATE: Final = re.compile(r"SQLSTATE:? ([0-9A-Z]{5})")
_URL: Final = re.compile(r" for url \(.*\)")
_CONFLICTS: Final = ("DELTA_CONCURRENT_", "DELTA_METADATA_CHANGED", "DELTA_PROTOCOL_CHANGED")

ADVICE: Final[Mapping[int, str]] = {
    401: "see `token`, or `oauthClientId` and `oauthClientSecret`",
    403: "the token's owner needs CAN USE on the SQL warehouse, and READ VOLUME and WRITE VOLUME on the volume",
    404: "see `host` and `path`",
}


class StatementFailed(WarehouseError):
    """The warehouse ran a statement and says why it failed.

    Attributes:
        condition: the error's name, as in https://docs.databricks.com/aws/en/error-messages/error-classes, or "".
        sqlstate: five characters, or "".
    """

    def __init__(self, text: str, condition: str, sqlstate: str) -> None:
        super().__init__(text)
        self.condition = condition
        self.sqlstate = sqlstate

    @property
    def conflict(self) -> bool:
        """Whether somebody else's commit came first: made again, it may succeed."""
        return self.condition.startswith(_CONFLICTS) or self.sqlstate == "2D521"


class Answer(msgspec.Struct, frozen=True):
    """An answer, whole."""

    status: int
    body: bytes

    def json(self) -> Mapping[str, Any]:
        """Return the body as an object; one that is none is empty."""
        try:
            found = msgspec.json.decode(self.body) if self.body else {}
        except msgspec.DecodeError:
            return {}
        return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


class DatabricksApi:
    """One workspace and one of its SQL warehouses."""

    def __init__(
        self,
        origin: str,
        warehouse: str,
        *,
        token: Secret = NO_SECRET,
        client_id: str = "",
        client_secret: Secret = NO_SECRET,
        statement_s: float = _STATEMENT_S,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            origin: scheme, host and port.
            warehouse: the SQL warehouse's id.
            token: a personal access token; without, a service principal's `client_id` and `client_secret`.
        """
        self._origin = origin
        self._warehouse = warehouse
        self._token = token
        self._client_id = client_id
        self._client_secret = client_secret
        self._statement_s = statement_s
        self._sleep = sleep
        self._monotonic = monotonic
        self._bearer = token
        self._renew_at = float("inf") if token else 0.0
        self._client = _client()

    def close(self) -> None:
        self._client.close()

    # ------------------------------------------------------------ statements

    def run(self, sql: str, parameters: Mapping[str, Value] | None = None) -> Sequence[Row]:
        """Run a statement to its end and return its rows, every value as text.

        Args:
            parameters: by name; `:name` in the text.

        Raises:
            StatementFailed: the warehouse says why.
            WarehouseError: it can't be reached, refuses, or took too long.
        """
        done = self._statement(sql, parameters or {}, disposition="INLINE", format="JSON_ARRAY")
        rows: list[Row] = []
        for chunk in self._chunks(done):
            rows += chunk.get("data_array") or []
        return rows

    def query(self, sql: str) -> Sequence[Sequence[Any]]:
        """Return a query's rows in Python's types, of any size.

        In Arrow's format, which is exact: JSON has times without their microseconds.

        Raises:
            StatementFailed: the warehouse says why.
            WarehouseError: it can't be reached, refuses, or took too long.
        """
        done = self._statement(sql, {}, disposition="EXTERNAL_LINKS", format="ARROW_STREAM")
        rows: list[Sequence[Any]] = []
        for chunk in self._chunks(done):
            for link in chunk.get("external_links") or ():
                # The link carries its own right; the token must not go along.
                answer = self._exchange("GET", str(link["external_link"]), {})
                if answer.status != 200:
                    raise WarehouseError(f"Databricks: a result could not be fetched: {answer.status}")
                with pa.ipc.open_stream(answer.body) as stream:
                    table = stream.read_all()
                rows += zip(*(column.to_pylist() for column in table.columns), strict=True)
        return rows

    def _statement(self, sql: str, parameters: Mapping[str, Value], **shape: str) -> Mapping[str, Any]:
        deadline = self._monotonic() + self._statement_s
        asked = {
            "warehouse_id": self._warehouse,
            "statement": sql,
            "parameters": [
                {
                    "name": name,
                    "value": None if value is None else str(value),
                    "type": "BIGINT" if isinstance(value, int) else "STRING",
                }
                for name, value in parameters.items()
            ],
            "wait_timeout": f"{_WAIT_S}s",
            "on_wait_timeout": "CONTINUE",
            **shape,
        }
        found = self._asked("POST", "/api/2.0/sql/statements", msgspec.json.encode(asked)).json()
        pause_s = _POLL_S[0]
        while (state := _state(found)) in ("PENDING", "RUNNING"):
            place = f"/api/2.0/sql/statements/{quote(str(found['statement_id']), safe='')}"
            if self._monotonic() > deadline:
                self._asked("POST", f"{place}/cancel", b"{}")
                raise WarehouseError(
                    f"Databricks: a statement was {state} for {self._statement_s:g} s and has been cancelled; see the"
                    " SQL warehouse's size and queue"
                )
            self._sleep(pause_s)
            pause_s = min(pause_s * 1.5, _POLL_S[1])
            found = self._asked("GET", place).json()
        if state != "SUCCEEDED":
            raise self._failure(found, state)
        return found

    def _failure(self, found: Mapping[str, Any], state: str) -> StatementFailed:
        status = found.get("status") or {}
        error = status.get("error") or {}
        message = str(error.get("message") or "")
        condition = _CONDITION.search(message)
        sqlstate = _SQLSTATE.search(message)
        words = self._clean(message) or str(error.get("error_code") or "") or "no reason is given"
        return StatementFailed(
            words if state == "FAILED" else f"the statement was {state.lower()}: {words}",
            condition[1] if condition else "",
            str(status.get("sql_state") or error.get("sql_state") or (sqlstate[1] if sqlstate else "")),
        )

    def _chunks(self, done: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        place = f"/api/2.0/sql/statements/{quote(str(done['statement_id']), safe='')}/result/chunks"
        chunk: Mapping[str, Any] = done.get("result") or {}
        yield chunk
        while (following := _following(chunk)) is not None:
            chunk = self._asked("GET", f"{place}/{following}").json()
            yield chunk

    # ------------------------------------------------------------ files

    def put(self, path: str, file: Path) -> None:
        """Make a file of a volume (`/Volumes/…`), in place of one that is there. Up to 5 GiB.

        Raises:
            WarehouseError: it failed.
        """
        self._asked("PUT", f"/api/2.0/fs/files{quote(path)}?{urlencode({'overwrite': 'true'})}", file)

    def delete(self, path: str) -> None:
        """Remove a file of a volume; it is no error if there is none.

        Raises:
            WarehouseError: it failed.
        """
        self._asked("DELETE", f"/api/2.0/fs/files{quote(path)}", fine=(404,))

    # ------------------------------------------------------------ requests

    def _asked(
        self, method: str, target: str, body: bytes | Path = b"", *, fine: tuple[int, ...] = ()
    ) -> Answer:
        """Ask, as often as that is sensible.

        Raises:
            WarehouseError: no answer, or one that is no success.
        """
        renewed = False
        while True:
            answer = self._exchange(method, f"{self._origin}{target}", self._authorization(), body)
            if answer.status == 401 and self._client_id and not self._token and not renewed:
                renewed, self._renew_at = True, 0.0
                continue
            if answer.status < 300 or answer.status in fine:
                return answer
            raise self._refused(answer)

    def _refused(self, answer: Answer) -> WarehouseError:
        found = answer.json()
        words = self._clean(
            str(found.get("message") or found.get("error_description") or found.get("error") or "")
        )
        code = str(found.get("error_code") or "")
        advice = ADVICE.get(answer.status, "")
        return WarehouseError(
            f"Databricks at {self._origin} answered {answer.status}"
            + (f" {code}" if code else "")
            + (f": {words}" if words else "")
            + (f"; {advice}" if advice else "")
        )

    def _authorization(self) -> Mapping[str, str]:
        if self._monotonic() >= self._renew_at:
            form = urlencode({"grant_type": "client_credentials", "scope": "all-apis"}).encode()
            answer = self._exchange(
                "POST",
                f"{self._origin}/oidc/v1/token",
                {"Content-Type": "application/x-www-form-urlencoded"},
                form,
                basic=(self._client_id, self._client_secret),
            )
            found = answer.json()
            if answer.status != 200 or not found.get("access_token"):
                raise self._refused(Answer(answer.status if answer.status >= 400 else 401, answer.body))
            self._bearer = Secret(str(found["access_token"]))
            lives_s = float(found.get("expires_in") or 3_600)
            self._renew_at = self._monotonic() + max(1.0, lives_s - _RENEW_BEFORE_S)
        return {"Authorization": f"Bearer {self._bearer.reveal()}"}

    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Path = b"",
        *,
        basic: tuple[str, Secret] | None = None,
    ) -> Answer:
        """Send a request until there is an answer that says more than "later"."""
        for left in reversed(range(_TRIES)):
            tried = _TRIES - 1 - left
            try:
                answer, after = self._once(method, url, headers, body, basic)
            except PyreqwestError as error:
                if not left:
                    raise WarehouseError(
                        f"Databricks at {self._origin}: {self._clean(_words(error))}"
                    ) from None
                self._pause(tried, "")
                continue
            if answer.status not in _LATER or not left:
                return answer
            self._pause(tried, after)
        raise AssertionError("the last try returns or raises")

    def _once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Path,
        basic: tuple[str, Secret] | None,
    ) -> tuple[Answer, str]:
        request = self._client.request(method, url)
        for name, value in headers.items():
            request = request.header(name, value, is_sensitive=name == "Authorization")
        if basic is not None:
            request = request.basic_auth(basic[0], basic[1].reveal())
        timeout_s = _REQUEST_S
        if isinstance(body, Path):
            timeout_s = _UPLOAD_S
            request = request.header("Content-Type", "application/octet-stream")
            request = request.header("Content-Length", str(body.stat().st_size)).body_stream(_parts(body))
        elif body:
            if "Content-Type" not in headers:
                request = request.header("Content-Type", "application/json")
            request = request.body_bytes(body)
        response = request.timeout(timedelta(seconds=timeout_s)).build().send()
        after = response.headers.get("retry-after") or ""
        return Answer(response.status, bytes(response.bytes())), after

    def _pause(self, tried: int, after: str) -> None:
        shortest, longest = _PAUSE_S
        pause_s = random.uniform(shortest / 2, min(shortest * 2**tried, longest))  # noqa: S311 - spreads clients
        self._sleep(min(max(pause_s, _seconds(after)), _LONGEST_PAUSE_S))

    def _clean(self, text: str) -> str:
        """Return the first lines of what a server says, without any secret of ours."""
        words = " ".join(text.split())
        for secret in (self._bearer, self._client_secret):
            if secret:
                words = words.replace(secret.reveal(), "…")
        return words[:500]


def _client() -> SyncClient:
    builder = SyncClientBuilder().follow_redirects(False).no_proxy().user_agent("mainstem")
    return builder.connect_timeout(timedelta(seconds=10)).build()


def _state(found: Mapping[str, Any]) -> str:
    state = (found.get("status") or {}).get("state")
    if not state or "statement_id" not in found:
        raise WarehouseError("Databricks: the answer is not one of the Statement Execution API; see `host`")
    return str(state)


def _following(chunk: Mapping[str, Any]) -> int | None:
    """Return the index of the chunk after this one."""
    following = chunk.get("next_chunk_index")
    for link in chunk.get("external_links") or ():
        following = link.get("next_chunk_index")
    return None if following is None else int(following)


def _parts(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while part := source.read(_PART_BYTES):
            yield part


def _words(error: PyreqwestError) -> str:
    causes = (
        error.details.get("causes") if isinstance(error, DetailedPyreqwestError) and error.details else None
    )
    # Links to results carry their right in them.
    return _URL.sub("", str(causes[-1]["message"])) if causes else type(error).__name__


def _seconds(after: str) -> float:
    """Return what `Retry-After` says, seconds or a date, as seconds from now."""
    if after.isdigit():
        return float(after)
    try:
        return max(0.0, (parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
