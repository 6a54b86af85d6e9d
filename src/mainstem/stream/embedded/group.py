"""Groups on one machine: who owns which partition is who holds the lock on its file.

`groups/<group>/<partition>.lock` is held (flock) by the owner, so the kernel frees it the moment the owner
dies; there are no heartbeats and no time-outs to guess. `groups/<group>/members/<id>` is held by each live
member: the number of them tells everybody's fair share. Every 0.4 s a member gives away what is
above its share, and takes what is free below it. Partitions stay where they are as far as fairness allows.

A member's id is `<random>` or, where it has a seat, `<random>.<seat>.<number>`, the number being above that of
everybody who is there. Who has somebody before it in its seat counts for nobody, itself included, until that one
has left: then everything passes over at once.
"""

import asyncio
import contextlib
import uuid
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog
from structlog.typing import FilteringBoundLogger

from mainstem.stream.base import OnAssign, OnRevoke
from mainstem.stream.embedded.locks import FileLock

_log: FilteringBoundLogger = structlog.get_logger(module=__name__)
_PERIOD_S: Final = 0.4
_HEIR_PERIOD_S: Final = 0.02
"""How often one looks that waits for its seat: nobody delivers from when it is free."""
_LONG_WAIT_S: Final = 30.0


class FileMembership:
    """This process's place in a group."""

    def __init__(
        self,
        directory: Path,
        group: str,
        partitions: int,
        on_assign: OnAssign,
        on_revoke: OnRevoke,
        seat: str = "",
    ) -> None:
        self._directory = directory / "groups" / quote(group, safe="")
        self._members = self._directory / "members"
        self._members.mkdir(parents=True, exist_ok=True)
        self._all = partitions
        self._on_assign = on_assign
        self._on_revoke = on_revoke
        self._owned: dict[int, FileLock] = {}
        self._left = asyncio.Event()
        own = self._id = uuid.uuid4().hex
        if seat:
            self._id = f"{own}.{_seat_part(seat)}.{self._next_number(seat)}"
        self._waits_since_s = 0.0
        # The name appears only once it is locked: a member is never taken for dead while it joins.
        joining = self._directory / f"joining-{own}"
        self._alive = FileLock(joining)
        if not self._alive.try_take():
            raise AssertionError("a name of our own is locked by another")
        joining.rename(self._members / self._id)
        self._task: asyncio.Task[None] | None = None

    @property
    def partitions(self) -> frozenset[int]:
        return frozenset(self._owned)

    async def start(self) -> None:
        """Take what is free, then keep to the fair share until `leave`."""
        await self._settle()
        self._task = asyncio.create_task(self._keep_settled())

    async def leave(self) -> None:
        if self._left.is_set():
            return
        self._left.set()
        if self._task is not None:
            await self._task
        try:
            await self._release(frozenset(self._owned))
        finally:
            for lock in self._owned.values():
                lock.close()
            self._owned.clear()
            (self._members / self._id).unlink(missing_ok=True)
            self._alive.close()

    async def _keep_settled(self) -> None:
        while not self._left.is_set():
            try:
                await self._settle()
            except Exception:  # noqa: BLE001 - one failed callback must not end the membership
                _log.exception("a callback of the group failed")
            with contextlib.suppress(TimeoutError):
                period_s = _HEIR_PERIOD_S if self._waits_since_s else _PERIOD_S
                await asyncio.wait_for(self._left.wait(), period_s)

    async def _settle(self) -> None:
        members = seated(self._live_members())
        if self._id not in members:
            self._wait_for_the_seat()
            return
        self._waits_since_s = 0.0
        share, extra = divmod(self._all, len(members))
        quota = share + (1 if members.index(self._id) < extra else 0)
        await self._release(frozenset(sorted(self._owned)[quota:]))
        gained: set[int] = set()
        for partition in range(self._all):
            if len(self._owned) >= quota:
                break
            if partition in self._owned:
                continue
            lock = FileLock(self._directory / f"{partition}.lock")
            if lock.try_take():
                self._owned[partition] = lock
                gained.add(partition)
            else:
                lock.close()
        if gained:
            await self._on_assign(frozenset(gained))

    async def _release(self, partitions: frozenset[int]) -> None:
        if not partitions:
            return
        await self._on_revoke(partitions)
        for partition in partitions:
            self._owned.pop(partition).close()

    def _next_number(self, seat: str) -> int:
        numbers = [number for where, number in map(_place, self._live_members()) if where == _seat_part(seat)]
        return max(numbers, default=0) + 1

    def _wait_for_the_seat(self) -> None:
        now_s = asyncio.get_running_loop().time()
        self._waits_since_s = self._waits_since_s or now_s
        if now_s - self._waits_since_s > _LONG_WAIT_S:
            self._waits_since_s = now_s
            _log.warning("waits for the one before it in its seat to end", member=self._id)

    def _live_members(self) -> list[str]:
        live: list[str] = []
        for path in sorted(self._members.iterdir()):
            if path.name == self._id:
                live.append(path.name)
                continue
            try:
                lock = FileLock(path, create=False)
            except FileNotFoundError:
                continue
            if lock.try_take():
                path.unlink(missing_ok=True)
            else:
                live.append(path.name)
            lock.close()
        return live


def seated(live: list[str]) -> list[str]:
    """Return those of the live members who have nobody before them in their seat."""
    first: dict[str, int] = {}
    for seat, number in map(_place, live):
        first[seat] = min(number, first.get(seat, number))
    return [name for name in live if _place(name)[1] == first[_place(name)[0]]]


def _place(member_id: str) -> tuple[str, int]:
    """Return the seat and the number in it."""
    own, _, place = member_id.partition(".")
    seat, _, number = place.partition(".")
    return (seat, int(number)) if number else (own, 0)


def _seat_part(seat: str) -> str:
    return quote(seat, safe="").replace(".", "%2E")
