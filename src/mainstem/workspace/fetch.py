"""GET for the control-plane client: one request a connection, bounded, cancellable at any moment.

One small request every few seconds needs no pool, and the layer below delivery has no HTTP client of its
own; asyncio's streams with httptools for the framing (https://www.rfc-editor.org/rfc/rfc9112) are enough.
Redirects are not followed: the token must not travel to another host.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import urlsplit

import httptools
import msgspec

from mainstem.workspace.errors import WorkspaceUnavailable

_MAX_HEAD_BYTES: Final = 64 * 1024
_CHUNK_BYTES: Final = 64 * 1024


class Fetched(msgspec.Struct, frozen=True):
    """An answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Fetch(Protocol):
    """How the control-plane client gets a document; replaced where a proxy or special TLS is needed."""

    async def __call__(
        self, url: str, headers: Mapping[str, str], *, timeout_s: float, max_bytes: int
    ) -> Fetched:
        """GET `url`, follow no redirect, read at most `max_bytes` of body.

        Raises:
            WorkspaceUnavailable: no whole answer in time, or a larger one. The text holds no header.
        """
        ...


async def fetch(url: str, headers: Mapping[str, str], *, timeout_s: float, max_bytes: int) -> Fetched:
    """GET `url` over a connection of its own (the default `Fetch`)."""
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    try:
        async with asyncio.timeout(timeout_s):
            context = await asyncio.to_thread(ssl.create_default_context) if secure else None
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                authority = parts.netloc.rpartition("@")[2]
                writer.write(_request(target, authority, headers))
                await writer.drain()
                return await _answer(reader, max_bytes)
            finally:
                writer.close()
    except TimeoutError:
        raise WorkspaceUnavailable(f"no whole answer within {timeout_s:g} s") from None
    except httptools.HttpParserError as error:
        raise WorkspaceUnavailable(f"the answer is not HTTP ({type(error).__name__})") from None
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise WorkspaceUnavailable(f"{host}:{port}: {reason}") from None


def _request(target: str, authority: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"GET {target} HTTP/1.1", f"Host: {authority}", "Connection: close", "Accept-Encoding: identity"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _answer(reader: asyncio.StreamReader, max_bytes: int) -> Fetched:
    answer = _Answer()
    parser = httptools.HttpResponseParser(answer)
    received = 0
    while not answer.complete:
        chunk = await reader.read(_CHUNK_BYTES)
        received += len(chunk)
        if received > max_bytes + _MAX_HEAD_BYTES or len(answer.body) > max_bytes:
            raise WorkspaceUnavailable(f"the answer is larger than {max_bytes} bytes")
        if not chunk:
            if not answer.until_close:
                raise WorkspaceUnavailable("the connection was closed before the answer was whole")
            break
        parser.feed_data(chunk)
    if len(answer.body) > max_bytes:
        raise WorkspaceUnavailable(f"the answer is larger than {max_bytes} bytes")
    return Fetched(parser.get_status_code(), answer.headers, bytes(answer.body))


class _Answer:
    """What httptools calls back."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False
        self.until_close = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        framed = "content-length" in self.headers or "transfer-encoding" in self.headers
        self.until_close = not framed

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True
