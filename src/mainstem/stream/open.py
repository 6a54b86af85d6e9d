"""Opens a stream by its URL: the one place that knows which back ends there are."""

from pathlib import Path
from urllib.parse import unquote

from mainstem.clock import Clock
from mainstem.errors import SettingsError
from mainstem.stream.base import Stream
from mainstem.stream.embedded import EmbeddedLimits, open_embedded
from mainstem.stream.memory import MemoryStream


async def open_stream(
    url: str, *, partitions: int, clock: Clock, limits: EmbeddedLimits | None = None
) -> Stream:
    """Open, or make, the stream at `url`.

    `memory:` lives in this process; `file:/data/stream` (or `file:///data/stream`, or a relative
    `file:data/stream`) is a directory, bounded by `limits`.

    Raises:
        SettingsError: the URL names no back end.
        StreamError: the stream can't be opened.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "memory" and not rest:
        return MemoryStream(partitions=partitions, clock=clock)
    if scheme == "file" and rest.removeprefix("//"):
        directory = Path(unquote(rest.removeprefix("//")))
        return await open_embedded(directory, partitions=partitions, clock=clock, limits=limits)
    raise SettingsError(f"stream URL {url!r}: expected memory: or file:<directory>")
