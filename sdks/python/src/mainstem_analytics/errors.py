"""What can go wrong, as `on_error(error, events)` gets it; calls raise `InvalidCall` alone.

AnalyticsError
├── InvalidCall        a call that can't be right: no id, traits that are no dict
├── EventTooLarge      one event above the limit; the call gives False
├── HookFailed         a middleware raised; the event is not sent as it was
├── EventsDropped      the queue was full, or they were too old, or consent was refused
├── EventRefused       the server refused this event for good: it is set aside
├── SendFailed         an outage has begun; what is stored is sent later
├── SendingPaused      401 and the like: somebody has to change something
├── StoreFailed        the disk does not take events; they are kept in memory
└── StoreDamaged       the store's file could not be read; it was moved aside
"""

from __future__ import annotations


class AnalyticsError(Exception):
    """The root of all errors of this library."""


# AssertionError: what Segment's and RudderStack's libraries raise for the same calls.
class InvalidCall(AnalyticsError, ValueError, AssertionError):
    """A call that can't be right. Raised by the call."""


class EventTooLarge(AnalyticsError):
    """One event is larger than `max_event_bytes`; the call returned False and nothing was stored."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"the event has {size_bytes} bytes, more than {limit_bytes}")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class HookFailed(AnalyticsError):
    """A middleware raised. The event was not sent: what the hook was to take out of it would be in it."""

    def __init__(self, hook: str, error: BaseException) -> None:
        super().__init__(f"the middleware {hook} raised {type(error).__name__}: the event was not taken")
        self.hook = hook


class EventsDropped(AnalyticsError):
    """Events that will never be sent."""

    def __init__(self, count: int, reason: str) -> None:
        super().__init__(f"{count} events dropped: {reason}")
        self.count = count
        self.reason = reason
        """`queue full`, `too old`, `consent refused`."""


class EventRefused(AnalyticsError):
    """The server will never take this event; it was set aside (`Client.set_aside`)."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(f"the server refused an event ({status}{f' {code}' if code else ''}): {reason}")
        self.status = status
        self.code = code
        self.reason = reason


class SendFailed(AnalyticsError):
    """Sending failed and goes on failing: told once, when an outage begins. Nothing is lost by it."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(f"events can't be sent at the moment, and are kept: {reason}")
        self.reason = reason
        self.status = status
        """0 = no answer."""


class SendingPaused(AnalyticsError):
    """The server knows neither this write key nor this path (401, 403, 404 …): waiting would not help."""

    def __init__(self, status: int, reason: str, retry_s: float) -> None:
        super().__init__(
            f"sending is paused, the server answers {status}: {reason}. Events are kept; "
            f"next try in {retry_s:.0f} s, or at flush() or resume()"
        )
        self.status = status
        self.reason = reason


class StoreFailed(AnalyticsError):
    """The store could not be written: events are in memory only, until it can."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the store can't be written, events are in memory only: {reason}")
        self.reason = reason


class StoreDamaged(AnalyticsError):
    """The store's file could not be read as one. It was moved aside, and a new one begun."""

    def __init__(self, moved_to: str, reason: str) -> None:
        super().__init__(f"the store was damaged ({reason}); it is now {moved_to}, and a new one was begun")
        self.moved_to = moved_to
