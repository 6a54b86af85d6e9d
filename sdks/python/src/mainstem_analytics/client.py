"""The client: identify, track, page, screen, group, alias; reset, flush, close.

    call -> middleware -> consent -> sampling -> **JSON -> queue** -> store -> server

Everything up to the queue happens in the call, on the caller's thread; see `durable_queue.py` for what comes then. The
arguments, their order and what calls return are those of segment-analytics-python and rudder-sdk-python
(https://segment.com/docs/connections/sources/catalog/libraries/server/python/,
https://www.rudderstack.com/docs/sources/event-streams/sdks/rudderstack-python-sdk/).
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Callable, Literal, Optional

from mainstem_analytics import lifecycle
from mainstem_analytics.context import LIBRARY, current, device, merged
from mainstem_analytics.durable_queue import DurableQueue
from mainstem_analytics.encode import encode
from mainstem_analytics.errors import (
    AnalyticsError,
    EventsDropped,
    EventTooLarge,
    HookFailed,
    InvalidCall,
    SendingPaused,
    StoreFailed,
)
from mainstem_analytics.event import (
    Event,
    Id,
    Json,
    id_text,
    new_message_id,
    now_text,
    object_of,
    text_of,
    time_text,
)
from mainstem_analytics.lease import Lease
from mainstem_analytics.places import STORE_NAME, store_folder
from mainstem_analytics.sampling import Rate, in_sample
from mainstem_analytics.sender import Pace, Sender
from mainstem_analytics.store import Store, StoreUnusable
from mainstem_analytics.transport import Endpoint, Transport

DEFAULT_HOST = "http://localhost:8080"
MAX_QUEUE_SIZE = 500_000
MAX_QUEUE_BYTES = 256 * 1024 * 1024
MAX_EVENT_BYTES = 32 * 1024
MAX_AGE_S = 7 * 24 * 3600.0

Middleware = Callable[[Event], Optional[Event]]
"""Gets each event and returns it, changed or not, or None to drop it."""
OnError = Callable[[Exception, Sequence[Event]], object]
Durability = Literal["batch", "call"]
WhenFull = Literal["drop_oldest", "refuse_newest"]
Consent = Literal["granted", "pending", "refused"]

_log = logging.getLogger("mainstem_analytics")
_IDENTITY = "identity"
_OF_OTHERS = frozenset(
    {
        "oauth_client_id",
        "oauth_client_key",
        "oauth_key_id",
        "oauth_auth_server",
        "oauth_scope",
        "max_total_backoff_duration",
        "max_rate_limit_duration",
    }
)
"""Settings of segment-analytics-python that there is nothing for here."""


@dataclass(frozen=True)
class Status:
    """How a client is doing; the counts of events are of this process, but for `stored`."""

    stored: int
    """Events in the store, of all processes."""
    unstored: int
    """Events that are in memory only, at the moment."""
    sent: int
    dropped: int
    """Full queue, too old, or consent refused."""
    set_aside: int
    """Refused by the server for good."""
    sampled_out: int
    store_writable: bool
    paused: SendingPaused | None


class Client:
    """Takes events and sees that they arrive. One a process and write key is enough; any thread may use it."""

    def __init__(
        self,
        write_key: str | None = None,
        host: str | None = None,
        debug: bool = False,
        max_queue_size: int = MAX_QUEUE_SIZE,
        send: bool = True,
        on_error: OnError | None = None,
        gzip: bool = True,
        max_retries: int | None = None,
        sync_mode: bool = False,
        timeout: float = 15.0,
        proxies: Mapping[str, str] | str | None = None,
        thread: int = 1,
        upload_size: int = 100,
        upload_interval: float = 10.0,
        log_handler: logging.Handler | None = None,
        *,
        durability: Durability = "batch",
        store_dir: str | os.PathLike[str] | None = None,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        when_full: WhenFull = "drop_oldest",
        max_age_s: float = MAX_AGE_S,
        max_event_bytes: int = MAX_EVENT_BYTES,
        retry_most_s: float = 60.0,
        exit_timeout_s: float = 3.0,
        handle_sigterm: bool = True,
        middleware: Sequence[Middleware] = (),
        consent: Consent = "granted",
        sample_rate: Rate | None = None,
        context: Json | None = None,
        device_context: bool = False,
        remember_user: bool = False,
        **of_others: Any,
    ) -> None:
        """
        Args:
            write_key: of the source.
            host: where events go, `https://events.example.com`.
            debug: explain each step in the log `mainstem_analytics`.
            max_queue_size: events that wait at most, in the store and in memory.
            send: False = take calls and forget them.
            on_error: called with an error (see `errors`) and the events it is about, if they are known; on any thread.
            max_retries: of no effect: what is on the disk is tried until it is too old.
            sync_mode: each call waits until its event has arrived, at most `timeout`.
            timeout: seconds of silence after which a request is given up and sent again.
            proxies: by scheme or one for all; None = those of the environment.
            thread: of no effect: there is one.
            upload_size: events that start sending, and the most in a batch.
            upload_interval: seconds after which fewer are sent.
            durability: `call` = an event is on the disk before its call returns; `batch` = within 50 ms.
            store_dir: where the store lies, instead of the user's state folder.
            max_queue_bytes: the same bound in bytes of JSON.
            when_full: what goes at the bound.
            max_age_s: what could not be sent for so long is dropped.
            max_event_bytes: larger events are refused in the call.
            retry_most_s: the longest pause between two attempts, unless the server asks for one.
            exit_timeout_s: how long the process's end waits for events to be sent.
            handle_sigterm: send on SIGTERM too; only if this is the main thread.
            consent: `pending` = keep events in memory until `set_consent`.
            sample_rate: the share of users whose track, page and screen events are sent.
            context: goes into every event's context.
            device_context: add this machine's operating system, time zone and language.
            remember_user: for programs with one user: calls without ids are of the one who was identified last.
            of_others: settings of other libraries, such as those of OAuth; named in a warning.

        Raises:
            InvalidCall: There is no write key, or the host is no address.
            TypeError: There is no such setting.
        """
        if not write_key or not isinstance(write_key, str):
            raise InvalidCall("write_key is missing")
        if durability not in ("batch", "call") or when_full not in ("drop_oldest", "refuse_newest"):
            raise InvalidCall("durability is 'batch' or 'call', when_full 'drop_oldest' or 'refuse_newest'")
        try:
            endpoint = Endpoint.parse(host or DEFAULT_HOST)
        except ValueError as error:
            raise InvalidCall(str(error)) from None
        self.write_key = write_key
        self.on_error = on_error
        self.debug = debug
        self.send = send
        self.sync_mode = sync_mode
        self.timeout = timeout
        self._durable = durability == "call" or sync_mode
        self._max_event_bytes = max_event_bytes
        self._exit_timeout_s = exit_timeout_s
        self._middleware = list(middleware)
        self._sample_rate = sample_rate
        self._context = merged(
            {**device()} if device_context else {}, {"library": LIBRARY, **(context or {})}
        )
        self._remember_user = remember_user
        self._identity: dict[str, Any] | None = None
        self._lock = threading.RLock()
        self._consent: Consent = consent
        self._categories: dict[str, bool] = {}
        self._held: deque[Event] = deque()
        self._max_held = max_queue_size
        self._sampled_out = 0
        self._prepare_log(log_handler)
        unknown = of_others.keys() - _OF_OTHERS
        if unknown:
            raise TypeError(f"there is no setting {', '.join(sorted(unknown))}")
        given = sorted(name for name, value in of_others.items() if value is not None)
        if given:
            _log.warning("settings without effect here: %s", ", ".join(given))
        store, lease = (
            self._open_store(store_dir, max_queue_size, max_queue_bytes, when_full) if send else (None, None)
        )
        self._queue = DurableQueue(
            store,
            max_events=max_queue_size,
            max_bytes=max_queue_bytes,
            refuse_newest=when_full == "refuse_newest",
            max_age_s=max_age_s,
            report=self._report,
            explain=self._explain,
        )
        self._sender = Sender(
            self._queue,
            lease,
            Pace(max(1, upload_size), upload_interval, gzip, retry_most_s),
            make_transport=lambda meanwhile: Transport(
                endpoint, write_key, timeout_s=timeout, meanwhile=meanwhile, proxies=proxies
            ),
            report=self._report,
            explain=self._explain,
        )
        if send:
            lifecycle.register(self, on_term=handle_sigterm)

    def _open_store(
        self, store_dir: str | os.PathLike[str] | None, max_events: int, max_bytes: int, when_full: WhenFull
    ) -> tuple[Store | None, Lease | None]:
        try:
            folder = store_folder(self.write_key, store_dir)
        except OSError as error:
            self._report(StoreFailed(f"{type(error).__name__}: {error}"))
            return None, None
        self._explain("the store is %s", folder / STORE_NAME)
        store = Store(
            folder / STORE_NAME,
            max_events=max_events,
            max_bytes=max_bytes,
            refuse_newest=when_full == "refuse_newest",
        )
        return store, Lease(folder / "send.lock")

    # ---- the calls

    def identify(
        self,
        user_id: Id = None,
        traits: Json | None = None,
        context: Json | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: Id = None,
        integrations: Json | None = None,
        message_id: str | None = None,
    ) -> tuple[bool, Event]:
        """Say who a user is.

        Returns:
            Whether the event was taken, and the event. With `durability="call"` it is taken when it is on the disk: if
            that can't be written the answer is False, although the event is kept in memory and tried on.

        Raises:
            InvalidCall: There is no id, or an argument is of the wrong type.
        """
        more = {"traits": object_of("traits", traits)}
        if self._remember_user:
            self._remember(id_text("user_id", user_id), more["traits"])
        return self._take(
            "identify", more, user_id, anonymous_id, context, timestamp, integrations, message_id
        )

    def track(
        self,
        user_id: Id = None,
        event: str | None = None,
        properties: Json | None = None,
        context: Json | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: Id = None,
        integrations: Json | None = None,
        message_id: str | None = None,
    ) -> tuple[bool, Event]:
        """Say what a user did. Returns and raises as `identify`."""
        if not event or not isinstance(event, str):
            raise InvalidCall("event must be a name")
        more = {"event": event, "properties": object_of("properties", properties)}
        return self._take("track", more, user_id, anonymous_id, context, timestamp, integrations, message_id)

    def page(
        self,
        user_id: Id = None,
        category: str | None = None,
        name: str | None = None,
        properties: Json | None = None,
        context: Json | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: Id = None,
        integrations: Json | None = None,
        message_id: str | None = None,
    ) -> tuple[bool, Event]:
        """Say which page a user saw. Returns and raises as `identify`."""
        more = _named(category, name, properties)
        return self._take("page", more, user_id, anonymous_id, context, timestamp, integrations, message_id)

    def screen(
        self,
        user_id: Id = None,
        category: str | None = None,
        name: str | None = None,
        properties: Json | None = None,
        context: Json | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: Id = None,
        integrations: Json | None = None,
        message_id: str | None = None,
    ) -> tuple[bool, Event]:
        """Say which screen of an app a user saw. Returns and raises as `identify`."""
        more = _named(category, name, properties)
        return self._take("screen", more, user_id, anonymous_id, context, timestamp, integrations, message_id)

    def group(
        self,
        user_id: Id = None,
        group_id: Id = None,
        traits: Json | None = None,
        context: Json | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: Id = None,
        integrations: Json | None = None,
        message_id: str | None = None,
    ) -> tuple[bool, Event]:
        """Say which group a user belongs to. Returns and raises as `identify`."""
        group = id_text("group_id", group_id)
        if group is None:
            raise InvalidCall("group_id is missing")
        more = {"groupId": group, "traits": object_of("traits", traits)}
        return self._take("group", more, user_id, anonymous_id, context, timestamp, integrations, message_id)

    def alias(
        self,
        previous_id: Id = None,
        user_id: Id = None,
        context: Json | None = None,
        timestamp: datetime | str | None = None,
        integrations: Json | None = None,
        message_id: str | None = None,
    ) -> tuple[bool, Event]:
        """Say that two ids are one user. Returns and raises as `identify`."""
        previous = id_text("previous_id", previous_id)
        if previous is None or id_text("user_id", user_id) is None:
            raise InvalidCall("previous_id and user_id are needed")
        more = {"previousId": previous}
        return self._take("alias", more, user_id, None, context, timestamp, integrations, message_id)

    def reset(self) -> None:
        """Forget the remembered user and begin with a new anonymous id (`remember_user`)."""
        with self._lock:
            self._identity = {}
            self._keep_identity()

    # ---- what may be sent

    def use(self, hook: Middleware) -> None:
        """Have a hook see, change or drop each event from now on, after the hooks there are."""
        self._middleware.append(hook)

    def set_consent(self, granted: bool | None, categories: Mapping[str, bool] | None = None) -> None:
        """Say what the user has agreed to.

        Args:
            granted: True = what was held back goes on its way; False = that and all that was not sent yet is
                removed, from the disk too, and calls are refused; None = hold events back from now on.
            categories: go into every event's `context.consent.categoryPreferences`
                (https://www.twilio.com/docs/segment/privacy/consent-management/consent-in-unify).
        """
        with self._lock:
            if categories is not None:
                self._categories = dict(categories)
            self._consent = "pending" if granted is None else "granted" if granted else "refused"
            held, self._held = (self._held, deque()) if granted is not None else (deque(), self._held)
            if granted:
                # Under the lock, before any later call's event.
                for event in held:
                    self._with_consent(event)
                    self._enqueue(event)
        if granted is False:
            purged = len(held) + (self._queue.purge() if self.send else 0)
            if purged:
                self._queue.dropped += purged
                self._report(EventsDropped(purged, "consent refused"))

    # ---- the end

    def flush(self, timeout: float = 10.0) -> bool:
        """Send everything that was called until now, and wait for that.

        Args:
            timeout: seconds; what is not sent by then stays in the store.

        Returns:
            Whether all of it has arrived, also what other processes on the store had before it.
        """
        if not self.send:
            return True
        if not self._sender.start():
            return self.close(timeout)
        if self._sender.is_me():
            return False
        flush = self._sender.flush()
        flush.done.wait(timeout)
        self._sender.forget(flush)
        return flush.arrived

    def close(self, timeout: float = 10.0) -> bool:
        """`flush`, then stop the thread and close the store. A later call begins anew."""
        if not self.send:
            return True
        flush = self._sender.flush()
        # Without a thread the work is done here, and a signal's handler has to wait for it.
        inside = not self._sender.running and lifecycle.enter()
        try:
            self._sender.stop(time.monotonic() + timeout)
        finally:
            if inside:
                lifecycle.leave()
        if self._queue.store is not None and not self._sender.running:
            self._queue.store.close()
        return flush.arrived

    def join(self) -> None:
        """`close`, by the name that other libraries have for it."""
        self.close()

    def shutdown(self) -> None:
        """`close`, by the name that other libraries have for it."""
        self.close()

    def resume(self) -> None:
        """End a pause (401 and the like) after something was put right."""
        self._sender.resume()

    # ---- questions

    def status(self) -> Status:
        """How many events wait, were sent, dropped, set aside."""
        return Status(
            stored=self._queue.look() - (self._queue.waiting if self._queue.in_memory_only else 0),
            unstored=self._queue.waiting + len(self._held),
            sent=self._sender.sent,
            dropped=self._queue.dropped,
            set_aside=self._sender.set_aside,
            sampled_out=self._sampled_out,
            store_writable=not self._queue.in_memory_only,
            paused=self._sender.paused,
        )

    def set_aside(self) -> list[tuple[Refusal, Event]]:
        """The events that the server refused for good, oldest first, with its words.

        Raises:
            StoreFailed: The store can't be read.
        """
        return [
            (Refusal(found.status, found.code, found.reason), json.loads(found.event))
            for found in self._ask(lambda store: store.set_aside(), [])
        ]

    def clear_set_aside(self) -> int:
        """Forget the refused events; returns how many there were. Raises: StoreFailed."""
        return int(self._ask(lambda store: store.clear_set_aside(), 0))

    def _ask(self, question: Callable[[Store], Any], without_store: Any) -> Any:
        if self._queue.store is None:
            return without_store
        try:
            return question(self._queue.store)
        except StoreUnusable as error:
            raise StoreFailed(str(error)) from error

    # ---- inside

    def _take(
        self,
        kind: str,
        more: dict[str, Any],
        user_id: Id,
        anonymous_id: Id,
        context: Json | None,
        timestamp: datetime | str | None,
        integrations: Json | None,
        message_id: str | None,
    ) -> tuple[bool, Event]:
        around = current()
        user, anonymous = id_text("user_id", user_id), id_text("anonymous_id", anonymous_id)
        if user is None and anonymous is None:
            user = id_text("user_id", around.user_id)
            anonymous = id_text("anonymous_id", around.anonymous_id)
            if user is None and anonymous is None:
                user, anonymous = self._remembered()
        event: Event = {"type": kind, "messageId": text_of("message_id", message_id) or new_message_id()}
        if timestamp is None:
            event["timestamp"] = now_text()
        else:
            event["timestamp"] = event["originalTimestamp"] = time_text(timestamp)
        if user is not None:
            event["userId"] = user
        if anonymous is not None:
            event["anonymousId"] = anonymous
        event.update(more)
        known = merged(self._context, around.context) if around.context else self._context
        event["context"] = merged(known, object_of("context", context)) if context else dict(known)
        event["integrations"] = object_of("integrations", integrations)
        event["channel"] = "server"
        return self._admit(event)

    def _admit(self, event: Event) -> tuple[bool, Event]:
        """Middleware, consent, sampling; then the queue."""
        if not self.send:
            return True, event
        if self._sample_rate is not None and not in_sample(event, self._sample_rate):
            self._sampled_out += 1
            self._explain("%s %s is not in the sample", event["type"], event["messageId"])
            return True, event
        for hook in self._middleware:
            name = getattr(hook, "__qualname__", type(hook).__name__)
            try:
                changed = hook(event)
            except Exception as error:  # noqa: BLE001 - the program's code: logged, and the event is not lost quietly
                _log.exception("the middleware %s failed", name)
                self._report(HookFailed(name, error), events=(event,))
                return False, event
            if changed is None:
                self._explain(
                    "%s %s was dropped by the middleware %s", event["type"], event["messageId"], name
                )
                return True, event
            event = changed
        if self._consent == "granted" and not self._categories:
            return self._enqueue(event), event
        with self._lock:
            if self._consent == "refused":
                self._explain("%s %s is not taken: consent was refused", event["type"], event["messageId"])
                return False, event
            if self._consent == "granted":
                self._with_consent(event)
                return self._enqueue(event), event
            self._held.append(event)
            over = len(self._held) > self._max_held
            if over:
                self._held.popleft()
        self._explain("%s %s waits for consent", event["type"], event["messageId"])
        if over:
            self._queue.dropped += 1
            self._report(EventsDropped(1, "queue full"))
        return True, event

    def _with_consent(self, event: Event) -> None:
        if self._categories:
            preferences = {"consent": {"categoryPreferences": dict(self._categories)}}
            # What the call itself says comes first.
            event["context"] = merged(preferences, event.get("context") or {})

    def _enqueue(self, event: Event) -> bool:
        line = encode(event)
        if len(line) > self._max_event_bytes:
            self._report(EventTooLarge(len(line), self._max_event_bytes), events=(event,))
            return False
        inside = lifecycle.enter()
        try:
            number = self._queue.put(line)
            kept = self._queue.commit_up_to(number) if number and self._durable else True
            if number and not self._sender.running:
                lifecycle.look_after_child()
                self._sender.start()
        finally:
            if inside:
                lifecycle.leave()
        if not number:
            self._queue.dropped += 1
            self._report(EventsDropped(1, "queue full"), events=(event,))
            return False
        if self.debug:
            self._explain("%s %s taken, %d bytes", event.get("type"), event.get("messageId"), len(line))
        self._sender.wake()
        if self.sync_mode:
            return self.flush(self.timeout) or kept
        return kept

    def _remembered(self) -> tuple[str | None, str | None]:
        """The ids of the remembered user.

        Raises:
            InvalidCall: None is remembered.
        """
        if not self._remember_user:
            raise InvalidCall("user_id or anonymous_id is needed")
        with self._lock:
            identity = self._know_identity()
            if "anonymousId" not in identity:
                identity["anonymousId"] = new_message_id()
                self._keep_identity()
            return identity.get("userId"), identity["anonymousId"]

    def _remember(self, user_id: str | None, traits: Mapping[str, Any]) -> None:
        with self._lock:
            identity = self._know_identity()
            if user_id is not None and user_id != identity.get("userId"):
                if "userId" in identity:
                    # Another user: nothing of the last one's is theirs.
                    identity.clear()
                identity["userId"] = user_id
                self._keep_identity()
            self._explain("the user is remembered, with %d traits given", len(traits))

    def _know_identity(self) -> dict[str, Any]:
        if self._identity is None:
            try:
                kept = self._queue.store.fact(_IDENTITY) if self._queue.store is not None else None
            except StoreUnusable as error:
                self._report(StoreFailed(str(error)))
                kept = None
            self._identity = json.loads(kept) if kept else {}
        return self._identity

    def _keep_identity(self) -> None:
        if self._queue.store is not None:
            try:
                self._queue.store.keep_fact(_IDENTITY, json.dumps(self._identity) if self._identity else None)
            except StoreUnusable as error:
                self._report(StoreFailed(str(error)))

    def _report(
        self, error: AnalyticsError, lines: tuple[bytes, ...] = (), *, events: Sequence[Event] = ()
    ) -> None:
        """Log, and call `on_error`; whatever that raises stays in the log."""
        level = logging.ERROR if isinstance(error, (SendingPaused, StoreFailed)) else logging.WARNING
        _log.log(level, "%s", error)
        if self.on_error is not None:
            try:
                self.on_error(error, list(events) or [json.loads(line) for line in lines])
            except Exception:  # noqa: BLE001 - the program's code, on our thread: logged
                _log.exception("on_error failed")

    def _explain(self, step: str, *arguments: object) -> None:
        if self.debug:
            _log.debug(step, *arguments)

    def _prepare_log(self, handler: logging.Handler | None) -> None:
        if handler is not None and handler not in _log.handlers:
            _log.addHandler(handler)
        if self.debug:
            _log.setLevel(logging.DEBUG)
            if not _log.hasHandlers():
                _log.addHandler(logging.StreamHandler())

    # ---- what lifecycle.py asks for

    def before_fork(self) -> None:
        """See `lifecycle`."""
        self._queue.before_fork()

    def after_fork_parent(self) -> None:
        """See `lifecycle`."""
        self._queue.after_fork_parent()

    def after_fork_child(self) -> None:
        """See `lifecycle`. What waits for consent is the parent's."""
        self._lock = threading.RLock()
        self._held = deque()
        self._queue.after_fork_child()
        self._sender.after_fork_child()

    def at_exit(self) -> None:
        """See `lifecycle`."""
        if self._sender.running or self._queue.waiting:
            self.close(self._exit_timeout_s)


@dataclass(frozen=True)
class Refusal:
    """Why an event was set aside."""

    status: int
    code: str
    reason: str


def _named(category: Any, name: Any, properties: Json | None) -> dict[str, Any]:
    texts = {"category": text_of("category", category), "name": text_of("name", name)}
    given = {key: value for key, value in texts.items() if value is not None}
    return {**given, "properties": object_of("properties", properties)}
