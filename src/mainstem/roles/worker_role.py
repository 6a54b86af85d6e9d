"""The worker as a process: opens its rooms, runs a `Worker`, says how it is."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mainstem.clock import Clock
from mainstem.delivery.transport import PyreqwestTransport
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.reading import SharedReader, decode_with
from mainstem.roles.rooms import guard_of, open_geo, open_the_ledger, open_the_stream, open_the_workspace
from mainstem.roles.sandboxes import open_transformer
from mainstem.roles.surroundings import Surroundings
from mainstem.roles.worker import Worker
from mainstem.settings import Settings

if TYPE_CHECKING:
    from mainstem.events.geo import GeoDatabase


class WorkerRole:
    """One worker process."""

    def __init__(self, settings: Settings, clock: Clock, seat: str = "") -> None:
        self._seat = seat
        self._settings = settings
        self._clock = clock
        self._worker: Worker | None = None
        self._around: Surroundings | None = None

    async def start(self, stack: AsyncExitStack) -> None:
        """Open everything and begin to work."""
        settings, clock = self._settings, self._clock
        stream = await open_the_stream(settings, clock, stack)
        ledger = await open_the_ledger(settings, stack)
        source = await open_the_workspace(settings, clock, stack)
        guard = guard_of(settings)
        transport = PyreqwestTransport(guard, clock)
        stack.push_async_callback(transport.close)
        geo: GeoDatabase | None = open_geo(settings, stack)
        self._around = Surroundings(
            stream=stream,
            ledger=ledger,
            reader=SharedReader(stream, decode_with(Decoder((), geo))),
            transformer=open_transformer(settings, clock, geo, stack, may_fetch=True),
            transport=transport,
            guard=guard,
            clock=clock,
            data_dir=Path(settings.data_dir),
        )
        self._worker = Worker(
            self._around, source, geo=geo, drain_timeout_s=settings.drain_timeout_s, seat=self._seat
        )
        await self._worker.start()

    async def stop(self) -> None:
        """Finish what is in flight and settle it."""
        if self._worker is not None:
            await self._worker.stop()

    async def failed(self) -> str:
        """Wait until the worker can't go on; return why."""
        assert self._worker is not None  # noqa: S101 - asked after start
        return await self._worker.failed()

    async def health(self) -> Any:
        """Return `{problems: […], warnings: […]}`."""
        assert self._around is not None  # noqa: S101 - asked after start
        problems = []
        for name, room in (("stream", self._around.stream), ("ledger", self._around.ledger)):
            try:
                await room.check()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what health is asked for
                problems.append(f"{name}: {error}")
        for name, why in self._around.transformer.troubles.items():
            problems.append(f"transformation {name} can't be run: {why}")
        return {"problems": problems}

    async def status(self) -> Any:
        """Return the condition of every destination."""
        assert self._worker is not None  # noqa: S101 - asked after start
        return await self._worker.statuses()
