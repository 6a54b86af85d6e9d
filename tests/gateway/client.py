"""A small HTTP client that can also misbehave: raw bytes in, parsed answers out."""

import asyncio
import base64
from collections.abc import Mapping
from typing import Any, Self

import msgspec


class Response(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        document = msgspec.json.decode(self.body)
        assert isinstance(document, dict)
        return document


def basic(key: str) -> str:
    return "Basic " + base64.b64encode(f"{key}:".encode()).decode()


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=64 << 20))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def end(self) -> None:
        """Say that nothing more will be sent."""
        self._writer.write_eof()

    async def receive(self, *, head_only: bool = False) -> Response:
        """Read one answer; raises IncompleteReadError when the server closed instead."""
        async with asyncio.timeout(20):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip("\r\n").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            length = 0 if head_only else int(headers.get("content-length", "0"))
            return Response(int(first.split(" ")[1]), headers, await self._reader.readexactly(length))

    async def closed(self) -> bytes:
        """Wait until the server closes; return what it still sent."""
        async with asyncio.timeout(20):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        lines = [f"{method} {path} HTTP/1.1", "Host: gateway.test"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return await self.receive(head_only=method == "HEAD")

    async def post(
        self, path: str, body: bytes | object, headers: Mapping[str, str] | None = None, *, key: str = "wk1"
    ) -> Response:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        given = {"Authorization": basic(key)} if key else {}
        return await self.request("POST", path, {**given, **(headers or {})}, data)

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return
