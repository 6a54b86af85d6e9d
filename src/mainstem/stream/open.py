"""Opens a stream by its URL: the one place that knows which back ends there are."""

from mainstem.clock import Clock
from mainstem.errors import SettingsError
from mainstem.stream.base import Stream
from mainstem.stream.memory import MemoryStream


async def open_stream(url: str, *, partitions: int, clock: Clock) -> Stream:
    """Open, or make, the stream at `url`.

    `memory:` lives in this process.

    Raises:
        SettingsError: the URL names no back end.
    """
    scheme, _, _rest = url.partition(":")
    if scheme == "memory":
        return MemoryStream(partitions=partitions, clock=clock)
    raise SettingsError(f"stream URL {url!r}: unknown scheme; expected memory:")
