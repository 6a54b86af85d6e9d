"""The gateway as a process: opens the stream's writing end, serves the socket, follows the workspace."""

import asyncio
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Any, Final

import msgspec

from mainstem.clock import Clock
from mainstem.gateway.gateway import Gateway
from mainstem.gateway.settings import GatewaySettings
from mainstem.roles.rooms import open_the_stream, open_the_workspace
from mainstem.settings import Settings
from mainstem.stream.base import Stream, StreamError
from mainstem.telemetry.log import logger
from mainstem.workspace.model import WorkspaceSource

_log = logger(__name__)

_CHECK_INTERVAL_S: Final = 2.0
_TOP_LEVEL: Final = frozenset({"trusted_proxies", "public_url"})


def gateway_settings(settings: Settings) -> GatewaySettings:
    """Return the gateway's part of the settings."""
    values = {}
    for field in msgspec.structs.fields(GatewaySettings):
        name = field.name if field.name in _TOP_LEVEL else f"gateway_{field.name}"
        if hasattr(settings, name):
            values[field.name] = getattr(settings, name)
    return GatewaySettings(**values)


class GatewayRole:
    """One gateway process on an already listening socket."""

    def __init__(self, settings: Settings, clock: Clock, sock: socket.socket) -> None:
        self._settings = settings
        self._clock = clock
        self._sock = sock
        self._gateway: Gateway | None = None
        self._stream_state = "ok"
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, stack: AsyncExitStack) -> None:
        """Open everything and begin to accept."""
        settings, clock = self._settings, self._clock
        stream = await open_the_stream(settings, clock, stack, writer="process")
        # Clients wait while a gateway starts again after a crash: its writer starts while the workspace is read.
        starting = asyncio.create_task(stream.producer())
        try:
            source = await open_the_workspace(settings, clock, stack)
            workspace = await source.current()
        finally:
            producer = await starting
            stack.push_async_callback(producer.close)
        self._gateway = Gateway(
            producer,
            workspace,
            clock,
            gateway_settings(settings),
            ready=self._ready,
            version={"version": version("mainstem")},
        )
        self._sock.setblocking(False)
        self._tasks = [
            asyncio.create_task(self._gateway.serve(self._sock), name="serve"),
            asyncio.create_task(self._follow_workspace(source), name="follow the workspace"),
            asyncio.create_task(self._watch_stream(stream), name="watch the stream"),
        ]

    async def failed(self) -> str:
        """Wait until a task of the gateway ends, which none does by itself; return what happened."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return "; ".join(f"{task.get_name()}: {task.exception()!r}" for task in done if not task.cancelled())

    async def stop(self) -> None:
        """Answer what came in, take nothing new."""
        if self._gateway is not None:
            await self._gateway.drain(self._settings.drain_timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def health(self) -> Any:
        """Return `{problems: […]}`."""
        return {"problems": [f"{name}: {state}" for name, state in self._ready().items() if state != "ok"]}

    async def status(self) -> Any:
        """Gateways have no destinations."""
        return {}

    def _ready(self) -> Mapping[str, str]:
        return {"stream": self._stream_state}

    async def _follow_workspace(self, source: WorkspaceSource) -> None:
        assert self._gateway is not None  # noqa: S101 - made before this task
        async for workspace in source.changes():
            self._gateway.replace_workspace(workspace)

    async def _watch_stream(self, stream: Stream) -> None:
        while True:
            try:
                await stream.check()
                self._stream_state = "ok"
            except StreamError as error:
                if self._stream_state == "ok":
                    _log.error("the stream does not take events", error=str(error))
                self._stream_state = str(error) or type(error).__name__
            await self._clock.sleep(_CHECK_INTERVAL_S)
