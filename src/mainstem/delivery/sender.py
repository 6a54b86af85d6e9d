"""The sender of one cursor: order per user, retries, parking, the books. The heart of delivery.

runner -> **sender** -> attempt -> destination. The runner offers the events of its partitions in the order of
the log; the sender attempts them, decides what becomes of each, and moves the cursor's position in the
ledger together with the books.

Promises
--------
* One event of a key (a *lane*) is in flight at a time, in the order of the log, for every user, always. An
  event that carries both ids of a person waits for the events the same person sent before login
  (`Item.login_key`); see docs/concepts/ordering.md.
* An event that is to be tried again holds its lane, not the others. Where others succeed meanwhile, the whole
  lane is *parked* after a while: stored in the ledger, retried from there in order, so that the position
  moves on.
* A record is settled once: delivered, filtered, rejected, parked or dead, with its line in the books, in the
  transaction that moves the position. What was in flight in a crash is sent again.
* An outage of the whole destination opens the breaker: the position stops, nothing is parked or given up for
  it, and its time is taken off the retry windows.
* Memory is bounded by `DeliveryPolicy.window` and `window_bytes` of unsettled events; what the ledger can't
  take stays in that window and is tried again.

Who does what: `lanes` keep the order and decide about each event, `workers` bound the attempts, `condition`
knows the state of the destination, `park` retries what was set aside, `settle` moves the position. This class
puts them together, and is their common beginning and end.

All methods belong to one event loop. One task per worker, one for settling, one for the park; none per event.
"""

import contextlib
import random
from collections.abc import Collection, Coroutine, Mapping

import msgspec

from mainstem.clock import Clock
from mainstem.delivery.breaker import State
from mainstem.delivery.condition import Condition
from mainstem.delivery.item import Attempt, Burial, Item, Prepare
from mainstem.delivery.lanes import Lane, Lanes
from mainstem.delivery.park import Park, Turn
from mainstem.delivery.reasons import Reasons
from mainstem.delivery.settle import OnSettled, Settler
from mainstem.delivery.watermark import Watermark
from mainstem.delivery.workers import Workers
from mainstem.destinations.base import DestinationSpec
from mainstem.ledger.base import CountKey, Ledger, LedgerError, Position
from mainstem.telemetry import metrics
from mainstem.telemetry.log import logger
from mainstem.workspace.model import Destination

__all__ = ["Attempt", "Burial", "DestinationStatus", "Item", "Prepare", "Sender"]

_log = logger(__name__)


class DestinationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The condition of a sender, for people."""

    cursor: str
    breaker: State
    breaker_since_ms: int
    paused: bool
    window: int
    """Events read and not settled."""
    window_bytes: int
    in_flight: int
    lanes: int
    """Users with events in the window that are not decided."""
    parked_keys: int
    parked_events: int
    rate_per_s: float
    """The limit in force, 0 = none."""
    last_error: str
    last_answer: str
    last_error_ms: int
    last_delivered_ms: int


class Sender:
    """Delivers one cursor's events to one destination."""

    def __init__(
        self,
        *,
        cursor: str,
        destination: Destination,
        spec: DestinationSpec,
        attempt: Attempt,
        prepare: Prepare,
        ledger: Ledger,
        clock: Clock,
        rng: random.Random,
        on_settled: OnSettled | None = None,
        settle_every_s: float = 0.1,
        poll_s: float = 1.0,
    ) -> None:
        """
        Args:
            cursor: the name in the ledger.
            prepare: turns parked events back into items.
            rng: for the jitter.
            on_settled: told positions after they are durable (to let stream retention go on).
            settle_every_s: how long decided events wait for the next transaction.
            poll_s: how often the park is looked at for events that are due or were redriven.
        """
        self.cursor = cursor
        self.destination = destination
        policy = destination.delivery
        self._timeout_s = policy.timeout_s
        self._concurrency = policy.concurrency or spec.default_concurrency
        self._ledger = ledger
        self._clock = clock
        self._shown: tuple[object, ...] = ()
        self._started = False
        self._workers: Workers[Lane | Turn] = Workers(name=cursor, clock=clock)
        self._condition = Condition(
            destination_id=destination.id,
            policy=policy,
            attempt=attempt,
            clock=clock,
            rng=rng,
            on_change=self._workers.look_again,
            on_recovery=lambda: self._park.look_soon(),
        )
        rules = Reasons()
        self._settler = Settler(
            cursor=cursor,
            destination_id=destination.id,
            policy=policy,
            ledger=ledger,
            clock=clock,
            rules=rules,
            every_s=settle_every_s,
            on_settled=on_settled,
            on_parked=lambda events: self._park.grew(events),
            on_unparked=lambda item: self._park.committed(item),
            on_lost=self._give_up,
        )
        reasons = Reasons()
        self._park = Park(
            cursor=cursor,
            destination_id=destination.id,
            ledger=ledger,
            clock=clock,
            prepare=prepare,
            poll_s=poll_s,
            most_turns=max(1, self._concurrency // 2),
            condition=self._condition,
            reasons=reasons,
            rules=rules,
            workers=self._workers,
            marks=self._settler.marks,
            on_polled=self._show_status,
        )
        most = spec.default_max_batch if spec.max_batch is None else spec.max_batch(destination.config)
        self._lanes = self._park.lanes = Lanes(
            destination_id=destination.id,
            policy=policy,
            max_batch=max(1, most),
            clock=clock,
            workers=self._workers,
            condition=self._condition,
            settler=self._settler,
            park=self._park,
            reasons=reasons,
        )

    # ------------------------------------------------------------ coming and going

    async def start(self, positions: Mapping[int, Position]) -> None:
        """Take over partitions at these positions; more may be added by further calls.

        Raises:
            LedgerError: the parked keys can't be read; nothing was taken over.
        """
        fresh = [partition for partition in positions if partition not in self._settler.marks]
        # Lost and taken back: one attempt of a user at a time holds here too.
        await self._workers.wait_landed(lambda: self._settler.landed(fresh), self._timeout_s + 5.0)
        await self._park.load(fresh)
        for partition in fresh:
            self._settler.open(partition, positions[partition].next_offset)
        if not self._started:
            self._started = True
            self._settler.start()
            self._park.start()
            self._workers.start(self._concurrency, self._condition, self._do)
            metrics.BREAKER.labels(self.destination.id).set(0)

    def _do(self, work: Lane | Turn, now: float) -> Coroutine[None, None, None]:
        if type(work) is Lane:
            return self._lanes.send(work, now)
        assert isinstance(work, Turn)  # noqa: S101  for the type checker
        return self._park.take_turn(work)

    def pause(self) -> None:
        """Start no new attempts; what is in flight goes on."""
        self._workers.paused = True

    def resume(self) -> None:
        """Go on after `pause`."""
        self._workers.resume()

    async def drain(self, timeout_s: float) -> None:
        """Start nothing new, let what is in flight finish, settle, stop. What is not settled in time will be
        offered again by the next owner."""
        deadline = self._clock.monotonic() + timeout_s
        await self._workers.stop(timeout_s)
        await self._park.stop()
        self._lanes.stop()
        await self._settler.stop(deadline)
        with contextlib.suppress(LedgerError):
            await self._show_status()

    async def revoke(self, partitions: Collection[int]) -> None:
        """Give partitions away: let what is in flight in them finish, settle, forget them."""
        marks = self._settler.marks
        going = [marks[partition] for partition in partitions if partition in marks]
        for mark in going:
            self._lanes.drop(mark)
        turns_ended = self._park.withdraw(partitions)

        def landed() -> bool:
            return all(mark.in_flight == 0 for mark in going) and turns_ended()

        # An attempt has its own time-out; the margin is for settling.
        await self._workers.wait_landed(landed, self._timeout_s + 5.0)
        if not await self._settler.settle():
            _log.warning("partitions given away unsettled", cursor=self.cursor, partitions=sorted(partitions))
        self._park.forget([mark.partition for mark in going])
        self._settler.forget(going)

    def _give_up(self, mark: Watermark) -> None:
        """A partition was lost to another worker."""
        self._lanes.drop(mark)
        self._park.withdraw([mark.partition])
        self._park.forget([mark.partition])
        self._settler.forget([mark])

    @property
    def positions(self) -> Mapping[int, int]:
        """The next offset of every owned partition, as settled in the ledger."""
        return self._settler.positions

    def status(self) -> DestinationStatus:
        """Return the condition now."""
        condition, settler = self._condition, self._settler
        return DestinationStatus(
            cursor=self.cursor,
            breaker=condition.breaker.state,
            breaker_since_ms=condition.breaker.since_ms,
            paused=self._workers.paused,
            window=settler.window,
            window_bytes=settler.window_bytes,
            in_flight=self._workers.in_flight,
            lanes=len(self._lanes),
            parked_keys=len(self._park),
            parked_events=self._park.events,
            rate_per_s=condition.pacer.rate_per_s,
            last_error=condition.last_error,
            last_answer=condition.last_answer,
            last_error_ms=condition.last_error_ms,
            last_delivered_ms=condition.last_delivered_ms,
        )

    async def _show_status(self) -> None:
        """Keep the destination's condition in the ledger when it changed, for people who look from outside."""
        if self.cursor != self.destination.id:
            return
        condition = self._condition
        shown = (
            condition.breaker.state,
            condition.last_error,
            self._workers.paused,
            condition.pacer.rate_per_s > 0,
        )
        if shown != self._shown:
            await self._ledger.put_status(self.destination.id, msgspec.json.encode(self.status()))
            self._shown = shown

    # ------------------------------------------------------------ the runner's side

    @property
    def room(self) -> bool:
        """Whether more may be offered. One batch beyond it does no harm."""
        return self._settler.room

    async def wait_room(self) -> None:
        """Wait until more may be offered."""
        await self._settler.wait_room()

    def offer(self, item: Item) -> None:
        """Take an event to deliver: in the order of offsets within a partition, of sequence between them."""
        self._lanes.offer(item)

    def skip(self, partition: int, offset: int, count: CountKey) -> None:
        """Note a record that goes nowhere: filtered, or rejected by the gateway."""
        self._settler.skip(partition, offset, count)

    def bury(self, item: Item, reason: str, detail: str = "") -> None:
        """Note an event that can't be sent at all (a transformation failed, the mapping refused it): a dead letter.

        Args:
            reason: what the books count by.
            detail: what went wrong with this event; kept in the letter as its answer.
        """
        self._lanes.bury(item, reason, detail)
