"""Snapshots from an HTTP control plane: ours, or anything that serves RudderStack's `/workspaceConfig`.

    GET {url}
    Authorization: Basic base64("{token}:")
    If-None-Match: {the ETag of what we have}
    Prefer: wait=30

answers 200 with the document (and an `ETag`), or 304 when nothing changed. A server that knows `Prefer: wait`
(RFC 7240) holds the request until something changes; one that does not is asked again after the interval.
The last good document is kept on disk with its ETag; the data plane starts and runs from that copy alone.

The code of RudderStack's transformations, which its document names by version, is asked for at the same place
(`code_fetch.py`); what can't be had leaves its destinations switched off and is asked for again.

A document may refer to the environment as the YAML file does, but only to variables that begin with
`MAINSTEM_SECRET_`: whoever edits the control plane must not be able to send out this machine's other ones.
"""

import asyncio
import base64
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from mainstem.clock import Clock, iso_from_ms
from mainstem.secret import Secret
from mainstem.telemetry.log import logger
from mainstem.workspace import announce
from mainstem.workspace.beside import FilesBeside
from mainstem.workspace.checks import Checks
from mainstem.workspace.code_fetch import CodeFetch
from mainstem.workspace.errors import Problem, WorkspaceInvalid, WorkspaceUnavailable
from mainstem.workspace.fetch import Fetch, Fetched, fetch
from mainstem.workspace.last_good import LastGood, Saved
from mainstem.workspace.model import Workspace
from mainstem.workspace.parse import parse_workspace
from mainstem.workspace.report import Parsed
from mainstem.workspace.tree import MAX_DOCUMENT_BYTES

ENV_PREFIX: Final = "MAINSTEM_SECRET_"
_WAIT_S: Final = 30
_TIMEOUT_S: Final = 45.0
"""Longer than the server may hold the request."""
_START_TIMEOUT_S: Final = 10.0
_BACKOFF_BASE_S: Final = 1.0
_BACKOFF_MAX_S: Final = 60.0
_RETRY_AFTER_MAX_S: Final = 300.0

_log = logger(__name__)
_uniform: Final = random.SystemRandom().uniform


class ControlPlane:
    """Snapshots from one URL (a `WorkspaceSource`)."""

    def __init__(
        self,
        url: str,
        *,
        token: Secret,
        env: Mapping[str, str],
        checks: Checks,
        clock: Clock,
        last_good: LastGood,
        fetch: Fetch = fetch,
        poll_interval_s: float = 5.0,
        max_bytes: int = MAX_DOCUMENT_BYTES,
        uniform: Callable[[float, float], float] = _uniform,
    ) -> None:
        """Make a source; asks nothing yet.

        `poll_interval_s` is the least time between two requests that begin. `uniform` gives the jitter.

        Raises:
            WorkspaceInvalid: the URL is not one that can be asked.
        """
        self.origin = _checked_origin(url)
        self._url = url
        self._token = token
        self._env = {name: value for name, value in env.items() if name.startswith(ENV_PREFIX)}
        self._checks = checks
        self._clock = clock
        self._last_good = last_good
        self._fetch = fetch
        self._poll_interval_s = poll_interval_s
        self._max_bytes = max_bytes
        self._uniform = uniform
        self._code = CodeFetch(url, fetch)
        self._document, self._document_etag = b"", ""
        self._lacking: tuple[str, ...] = ()
        self._closed = False
        self._version = ""
        self._etag = ""
        self._digest = b""
        if url.startswith("http:") and token:
            _log.warning("the workspace token travels unencrypted: use https", origin=self.origin)

    async def current(self) -> Workspace:
        saved = await asyncio.to_thread(self._last_good.load)
        copy = await self._parsed_copy(saved) if saved else None
        if saved and copy:
            self._document, self._document_etag = saved.document, saved.etag
            self._note(saved.document, saved.etag)
        try:
            answer = await self._ask(_START_TIMEOUT_S, wait_s=0)
            parsed = await self._taken(answer) or await self._completed() or copy
        except (WorkspaceInvalid, WorkspaceUnavailable) as error:
            self._announce(error)
            if saved is None or copy is None:
                raise
            announce.fallen_back(self.origin, iso_from_ms(saved.saved_at_ms))
            parsed = copy
        if parsed is None:
            raise WorkspaceUnavailable(f"{self.origin}: answered 304 to a request without an ETag")
        announce.applied(parsed, self.origin, self._clock)
        self._version = parsed.workspace.version
        return parsed.workspace

    async def changes(self) -> AsyncIterator[Workspace]:
        failures = 0
        pause_s = self._poll_interval_s
        while not self._closed:
            await self._clock.sleep(pause_s)
            began = self._clock.monotonic()
            try:
                # While code is lacking nobody is kept waiting for the document to change.
                answer = await self._ask(_TIMEOUT_S, wait_s=0 if self._lacking else _WAIT_S)
                parsed = await self._taken(answer) or await self._completed()
            except WorkspaceInvalid as error:
                self._announce(error)
                parsed = None
            except _Failed as error:
                self._announce(error)
                failures += 1
                ceiling_s = min(_BACKOFF_MAX_S, _BACKOFF_BASE_S * 2 ** min(failures, 10))
                pause_s = max(self._uniform(0, ceiling_s), error.after_s)
                continue
            failures = 0
            spent_s = self._clock.monotonic() - began
            pause_s = max(0.0, self._poll_interval_s * self._uniform(0.8, 1.2) - spent_s)
            if parsed is not None and parsed.workspace.version != self._version:
                self._version = parsed.workspace.version
                announce.applied(parsed, self.origin, self._clock)
                yield parsed.workspace

    async def close(self) -> None:
        self._closed = True

    # ------------------------------------------------------------ one question

    def _headers(self) -> dict[str, str]:
        basic = base64.b64encode(f"{self._token.reveal()}:".encode()).decode("ascii")
        return {"Authorization": f"Basic {basic}", "Accept": "application/json, application/yaml;q=0.9"}

    async def _ask(self, timeout_s: float, *, wait_s: int) -> Fetched:
        """Return a 200 or 304.

        Raises:
            _Failed: anything else.
        """
        headers = self._headers()
        if self._etag:
            headers["If-None-Match"] = self._etag
        if wait_s:
            headers["Prefer"] = f"wait={wait_s}"
        try:
            answer = await self._fetch(self._url, headers, timeout_s=timeout_s, max_bytes=self._max_bytes)
        except WorkspaceUnavailable as error:
            raise _Failed(f"{self.origin}: {error}") from None
        if answer.status in (200, 304):
            return answer
        advice = "; check the workspace token" if answer.status in (401, 403) else ""
        raise _Failed(
            f"{self.origin}: answered {answer.status}{advice}",
            _seconds(answer.headers.get("retry-after", "")),
        )

    async def _taken(self, answer: Fetched) -> Parsed | None:
        """Return the answer's snapshot, or None when it is what we have seen already.

        Raises:
            WorkspaceInvalid: the document is wrong; it is not asked for again until it changes.
        """
        if answer.status == 304:
            return None
        etag = answer.headers.get("etag", "")
        if not self._note(answer.body, etag):
            return None
        parsed = await self._whole(answer.body)
        self._document, self._document_etag = answer.body, etag
        await self._save()
        return parsed

    async def _completed(self) -> Parsed | None:
        """Return the snapshot in use with code that was lacking; None while nothing of it came."""
        if not self._lacking or not await self._code.get(self._lacking, self._headers()):
            return None
        parsed = await self._whole(self._document)
        await self._save()
        return parsed

    async def _save(self) -> None:
        await asyncio.to_thread(
            self._last_good.save,
            self._document,
            now_ms=self._clock.now_ms(),
            etag=self._document_etag,
            files=self._code.files,
        )

    def _note(self, document: bytes, etag: str) -> bool:
        """Remember what was seen; return whether it is new."""
        digest = hashlib.blake2b(document, digest_size=16).digest()
        new = digest != self._digest
        self._digest, self._etag = digest, etag
        return new

    async def _parsed_copy(self, saved: Saved) -> Parsed | None:
        self._code.add(saved.files)
        try:
            parsed, beside = await self._parse(saved.document)
        except WorkspaceInvalid as error:
            announce.refused(error)
            return None
        self._lacking = beside.missed
        return parsed

    async def _whole(self, document: bytes) -> Parsed:
        """Return the snapshot with all the code that can be had now.

        Raises:
            WorkspaceInvalid: the document is wrong.
        """
        while True:
            parsed, beside = await self._parse(document)
            asked = set(self._lacking)
            self._lacking = beside.missed
            # Only code tells what libraries it needs, so there may be several rounds; each asks for new ones only.
            new = set(self._lacking) - asked
            if not new:
                break
            await self._code.get(sorted(new), self._headers())
        self._code.keep(beside.asked)
        return parsed

    async def _parse(self, document: bytes) -> tuple[Parsed, FilesBeside]:
        beside = self._code.beside()
        parsed = await asyncio.to_thread(
            parse_workspace,
            document,
            origin=self.origin,
            env=self._env,
            checks=self._checks,
            beside=beside,
        )
        return parsed, beside

    def _announce(self, error: WorkspaceInvalid | WorkspaceUnavailable) -> None:
        if isinstance(error, WorkspaceInvalid):
            announce.refused(error)
        else:
            announce.unavailable(self.origin, str(error))


class _Failed(WorkspaceUnavailable):
    """One request failed; `after_s` is how long the server wants to be left alone."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


def _seconds(retry_after: str) -> float:
    return (
        min(float(retry_after), _RETRY_AFTER_MAX_S)
        if retry_after.isascii() and retry_after.isdigit()
        else 0.0
    )


def _checked_origin(url: str) -> str:
    """Return the URL without its query, for messages."""
    problem = ""
    origin = "the control plane's URL"
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            problem = "expected http://host/path or https://host/path"
        elif parts.username is not None:
            problem = "holds a user or token; give the workspace token as its own setting"
        elif any(char.isspace() or not char.isprintable() or ord(char) > 126 for char in url):
            problem = "has characters that must be percent-encoded"
        else:
            _ = parts.port  # raises for a malformed one
            origin = f"{parts.scheme}://{parts.netloc}{parts.path}"
    except ValueError:
        problem = "is malformed"
    if problem:
        raise WorkspaceInvalid("the control plane's URL", [Problem("url", problem)])
    return origin
