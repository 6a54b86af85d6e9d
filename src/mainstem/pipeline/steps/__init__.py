"""The rules between an event and a destination, one file each, compiled once per workspace snapshot.

A step looks at one canonical event and answers None (pass) or the outcome that ends its way. It does no I/O,
reads no clock and never changes the event: many destinations share it.
"""

from collections.abc import Callable

from mainstem.events.canonical import Event
from mainstem.pipeline.outcome import Dead, Filtered

Step = Callable[[Event], Filtered | Dead | None]
