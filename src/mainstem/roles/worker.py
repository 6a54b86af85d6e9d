"""The worker: every destination's flow for the partitions this process owns.

stream -> **worker** -> destinations. It joins the group of workers, gives each enabled destination a flow at
its place, follows the workspace as it changes, and carries out replays. What it knows is in the ledger; it
can be killed at any moment.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mainstem.destinations.catalog import find_spec
from mainstem.errors import MainstemError
from mainstem.events.geo import GeoDatabase
from mainstem.ledger.base import LedgerError
from mainstem.pipeline.decode import Decoder
from mainstem.pipeline.errors import PlanInvalid
from mainstem.pipeline.plan import DestinationPlan, compile_plan
from mainstem.pipeline.reading import decode_with
from mainstem.pipeline.transform import Chains
from mainstem.roles.flows import Flow, open_flow
from mainstem.roles.replays import ReplayDesk, is_replay
from mainstem.roles.rooms import ensure_cursors
from mainstem.roles.sandboxes import tools_of
from mainstem.roles.surroundings import Surroundings
from mainstem.stream.base import Membership, StreamError
from mainstem.telemetry import metrics
from mainstem.telemetry.log import logger
from mainstem.workspace.model import Destination, Workspace, WorkspaceSource

_log = logger(__name__)

GROUP: Final = "workers"
_ECHO_INTERVAL_S: Final = 2.0
_APPLY_RETRY_S: Final = 1.0
_WARM_UP_S: Final = 10.0
"""A new snapshot waits so long at most for its sandboxes; what is not ready then starts with its first batch."""


class _Running(msgspec.Struct):
    destination: Destination
    flow: Flow
    given: set[int]
    """Partitions that the flow has taken over."""


class Worker:
    """One worker process's work. `start`, then `stop`."""

    def __init__(
        self,
        around: Surroundings,
        source: WorkspaceSource,
        *,
        geo: GeoDatabase | None,
        drain_timeout_s: float,
        seat: str = "",
    ) -> None:
        """
        Args:
            seat: see `Stream.join`: the process that replaces this one has the same.
        """
        self._around = around
        self._source = source
        self._geo = geo
        self._drain_timeout_s = drain_timeout_s
        self._seat = seat
        self._running: dict[str, _Running] = {}
        self._refused: dict[str, str] = {}
        """Why a destination does not run, by its id."""
        self._paused: set[str] = set()
        self._owned: frozenset[int] = frozenset()
        self._turn = asyncio.Lock()
        self._membership: Membership | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._replays = ReplayDesk(around)
        self._echoed: dict[str, Mapping[int, int]] = {}
        self._shown: dict[str, bytes] = {}

    async def start(self) -> None:
        """Begin to work."""
        workspace = await self._source.current()
        await self._apply(workspace)
        self._membership = await self._around.stream.join(
            GROUP, on_assign=self._assigned, on_revoke=self._revoked, seat=self._seat
        )
        self._tasks = [
            asyncio.create_task(self._follow_workspace(), name="follow the workspace"),
            asyncio.create_task(self._echo_positions(), name="echo positions"),
        ]

    async def failed(self) -> str:
        """Wait until a task of the worker ends, which none does by itself; return what happened."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return "; ".join(f"{task.get_name()}: {task.exception()!r}" for task in done if not task.cancelled())

    async def stop(self) -> None:
        """Finish what is in flight, settle, give the partitions away."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._turn:
            await asyncio.gather(
                self._replays.stop(self._drain_timeout_s),
                *(running.flow.drain(self._drain_timeout_s) for running in self._running.values()),
            )
            self._running.clear()
        if self._membership is not None:
            await self._membership.leave()

    async def statuses(self) -> Mapping[str, Any]:
        """Return the condition of every destination here."""
        found = {key: {"state": "running", **running.flow.status()} for key, running in self._running.items()}
        found.update({key: {"state": "refused", "error": why} for key, why in self._refused.items()})
        found.update({key: {"state": "disabled"} for key in self._paused})
        return found

    # ------------------------------------------------------------ partitions

    async def _assigned(self, partitions: frozenset[int]) -> None:
        async with self._turn:
            self._owned |= partitions
            await self._hand_over_all()
            await self._replays.assign(partitions)

    async def _revoked(self, partitions: frozenset[int]) -> None:
        async with self._turn:
            self._owned -= partitions
            for running in self._running.values():
                running.given -= partitions
            await asyncio.gather(
                self._replays.revoke(partitions),
                *(running.flow.revoke(partitions) for running in self._running.values()),
            )

    async def _hand_over_all(self) -> None:
        """Give every flow what is owned and it does not have; what fails is tried again with the next echo."""
        for key, running in self._running.items():
            try:
                await self._hand_over(running)
            except (LedgerError, StreamError) as error:
                _log.error("partitions can't be taken over now", destination=key, error=str(error))

    async def _hand_over(self, running: _Running) -> None:
        missing = self._owned - running.given
        if missing:
            positions = await self._around.ledger.positions(running.destination.id)
            await running.flow.assign({part: at for part, at in positions.items() if part in missing})
            running.given |= missing

    # ------------------------------------------------------------ workspace

    async def _follow_workspace(self) -> None:
        async for workspace in self._source.changes():
            while True:
                try:
                    await self._apply(workspace)
                    break
                except (LedgerError, StreamError) as error:
                    _log.error("workspace can't be applied now", version=workspace.version, error=str(error))
                    await self._around.clock.sleep(_APPLY_RETRY_S)

    async def _apply(self, workspace: Workspace) -> None:
        # While the old snapshot is still in use: sandboxes take a moment to start.
        # Before the first, events wait anyway, and those that need no sandbox should not.
        wait_s = _WARM_UP_S if self._running else 0.0
        await self._around.transformer.warm_up(workspace.transformations, timeout_s=wait_s)
        async with self._turn:
            await ensure_cursors(workspace, self._around.stream, self._around.ledger)
            await self._release_removed(workspace)
            decoder = Decoder(workspace.sources, self._geo)
            self._around.reader.replace_decode(decode_with(decoder))
            self._refused.clear()
            self._paused.clear()
            chains = Chains(workspace, tools_of(self._geo))
            plans: dict[str, DestinationPlan] = {}
            for destination in workspace.destinations:
                plan = self._compile(workspace, destination, chains)
                if plan is not None:
                    plans[destination.id] = plan
            await self._stop_flows(plans)
            for key, plan in plans.items():
                running = self._running.get(key)
                if running is not None:
                    running.flow.replace_plan(plan, decoder)
                else:
                    self._start_flow(plan, decoder)
            await self._hand_over_all()
            archives = {item.id: item for item in workspace.destinations}
            await self._replays.replace_plans(plans, archives, decoder)
            await self._show_idle()
        _log.info(
            "workspace applied",
            version=workspace.version,
            running=len(self._running),
            paused=len(self._paused),
            refused=len(self._refused),
        )

    async def _release_removed(self, workspace: Workspace) -> None:
        """Let retention pass what only removed destinations held. Their place stays in the ledger: one that
        comes back goes on there, or, where retention was faster, behind a gap that the books show."""
        for cursor in await self._around.stream.cursors():
            if not is_replay(cursor) and workspace.destination(cursor) is None:
                await self._around.stream.forget(cursor)
                self._echoed.pop(cursor, None)
                _log.warning("removed destination no longer holds the log", destination=cursor)

    def _compile(
        self, workspace: Workspace, destination: Destination, chains: Chains
    ) -> DestinationPlan | None:
        if not destination.enabled:
            self._paused.add(destination.id)
            return None
        spec = find_spec(destination.type)
        if spec is None:
            self._refuse(destination, f"no destination type {destination.type}")
            return None
        try:
            return compile_plan(workspace, destination, spec, chains)
        except PlanInvalid as error:
            self._refuse(destination, str(error))
            return None

    def _refuse(self, destination: Destination, why: str) -> None:
        self._refused[destination.id] = why
        _log.error("destination can't run and keeps its place", destination=destination.id, error=why)

    async def _stop_flows(self, plans: Mapping[str, DestinationPlan]) -> None:
        """Stop what is gone, disabled, or configured otherwise than before: it begins again at its place."""
        ending = [
            key
            for key, running in self._running.items()
            if key not in plans or plans[key].destination != running.destination
        ]
        stopped = [self._running.pop(key) for key in ending]
        await asyncio.gather(*(running.flow.drain(self._drain_timeout_s) for running in stopped))

    def _start_flow(self, plan: DestinationPlan, decoder: Decoder) -> None:
        try:
            flow = open_flow(plan, decoder, self._around)
        except MainstemError as error:
            self._refuse(plan.destination, str(error))
            return
        self._running[plan.destination.id] = _Running(destination=plan.destination, flow=flow, given=set())

    async def _show_idle(self) -> None:
        """Keep the condition of destinations that do not run for people to see."""
        idle = {key: {"state": "refused", "error": why} for key, why in self._refused.items()}
        idle.update({key: {"state": "disabled"} for key in self._paused})
        for key, condition in idle.items():
            self._shown[key] = msgspec.json.encode(condition)
            await self._around.ledger.put_status(key, self._shown[key])

    # ------------------------------------------------------------ positions

    async def _echo_positions(self) -> None:
        """Tell the stream how far destinations are, and show the lag; notice replays."""
        while True:
            await self._around.clock.sleep(_ECHO_INTERVAL_S)
            try:
                await self._echo()
                async with self._turn:
                    await self._hand_over_all()
                    await self._replays.look()
            except (LedgerError, StreamError) as error:
                _log.warning("positions can't be echoed now", error=str(error))

    async def _echo(self) -> None:
        bounds = await self._around.stream.bounds()
        for key in list(self._running):
            positions = await self._around.ledger.positions(key)
            mine = {part: at.next_offset for part, at in positions.items() if part in self._owned}
            lag = sum(max(0, bounds[part].next - at) for part, at in mine.items())
            metrics.PENDING.labels(key).set(lag)
            if mine and self._echoed.get(key) != mine:
                await self._around.stream.commit(key, mine)
                self._echoed[key] = mine
            running = self._running.get(key)
            if running is None:
                continue
            status = msgspec.json.encode({"state": "running", "lag": lag, **running.flow.status()})
            if status != self._shown.get(key):
                await self._around.ledger.put_status(key, status)
                self._shown[key] = status
