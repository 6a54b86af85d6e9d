"""Fetches what a control plane's document refers to: the code of RudderStack's transformations, by version.

document -> parse -> what was missed -> **fetch** -> parse again. A version never changes: what was fetched is kept
in memory and in the last good copy, and asked for again never. What could not be fetched leaves its destinations
switched off, with the reason, and is asked for again with each poll.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from mainstem.workspace.beside import MAX_FILE_BYTES, FilesBeside
from mainstem.workspace.errors import WorkspaceUnavailable
from mainstem.workspace.fetch import Fetch
from mainstem.workspace.rudder_code import code_url_path

_TIMEOUT_S: Final = 10.0
_AT_ONCE: Final = 8
_MAX_FILES: Final = 2_000
_MAX_FAILURES: Final = 3
"""So many questions without an answer, and the rest waits for the next poll: the server is down."""


class CodeFetch:
    """The code of one control plane."""

    def __init__(self, url: str, fetch: Fetch) -> None:
        parts = urlsplit(url)
        before, found, _ = parts.path.rpartition("/workspaceConfig")
        self._root = f"{parts.scheme}://{parts.netloc}{before if found else ''}"
        self._fetch = fetch
        self._files: dict[str, bytes] = {}
        self._reasons: dict[str, str] = {}

    @property
    def files(self) -> Mapping[str, bytes]:
        """What is at hand, by path."""
        return self._files

    def add(self, files: Mapping[str, bytes]) -> None:
        """Take what a last good copy holds."""
        self._files.update(files)

    def beside(self) -> FilesBeside:
        """Return what there is, for one reading of the document."""
        return FilesBeside(dict(self._files), dict(self._reasons))

    def keep(self, paths: Iterable[str]) -> None:
        """Forget everything but what the document in use needs."""
        needed = set(paths)
        self._files = {path: data for path, data in self._files.items() if path in needed}
        self._reasons = {path: why for path, why in self._reasons.items() if path in needed}

    async def get(self, paths: Iterable[str], headers: Mapping[str, str]) -> bool:
        """Ask for each of these; return whether any came."""
        wanted = [path for path in paths if code_url_path(path) is not None and path not in self._files]
        turn = asyncio.Semaphore(_AT_ONCE)
        failures = 0

        async def one(path: str) -> bool:
            nonlocal failures
            async with turn:
                if failures >= _MAX_FAILURES:
                    self._reasons.setdefault(path, "the control plane does not answer")
                    return False
                got = await self._one(path, headers)
                failures += got is None
                return bool(got)

        return any(await asyncio.gather(*(one(path) for path in wanted[:_MAX_FILES])))

    async def _one(self, path: str, headers: Mapping[str, str]) -> bool | None:
        """Return whether it came; None when the server could not say."""
        url = f"{self._root}{code_url_path(path)}"
        try:
            answer = await self._fetch(url, headers, timeout_s=_TIMEOUT_S, max_bytes=MAX_FILE_BYTES)
        except WorkspaceUnavailable as error:
            self._reasons[path] = f"{url}: {error}"
            return None
        if answer.status != 200:
            self._reasons[path] = f"{url} answered {answer.status}"
            return None if answer.status >= 500 or answer.status == 429 else False
        if not _is_answer(answer.body):
            self._reasons[path] = f"{url} answered 200 without code"
            return False
        self._files[path] = answer.body
        self._reasons.pop(path, None)
        return True


def _is_answer(body: bytes) -> bool:
    # A gateway's error page, or an error with status 200, must not be kept for ever as if it were code.
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return isinstance(value, dict) and isinstance(value.get("code"), str) and bool(value["code"].strip())
