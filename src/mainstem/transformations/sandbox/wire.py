"""What the runtime and a sandbox process say to each other, and how it stands on the wire.

runtime (parent) <-> one Unix socket <-> sandbox process (child). A frame is four bytes of length (big endian)
and one msgpack array, a member of `ToChild` or `ToParent`. The child is hostile once it holds user code: the
parent believes nothing but the types below, and bounds every frame before it reads it. The course of things:

    parent  Load ->                      once, first; the child jails itself, then touches the code
    child   Loaded | NotLoaded ->        NotLoaded: the code doesn't compile; the child ends
    parent  Run ->                       one batch at a time
    child   Ask -> , parent Answer ->    any number while it runs: `fetch`, `geolocation`
    child   Done | Overflow | Stopped -> in answer to Run; after Stopped the child ends

Events travel as one JSON array inside the frame, so that V8 parses a batch by one `JSON.parse`.
"""

import socket
import struct
from typing import Final, Literal

import msgspec

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""No frame is longer, in either direction; a child that announces more is ended."""
_LENGTH: Final = struct.Struct(">I")


class Closed(Exception):
    """The other side is gone."""


class Malformed(Exception):
    """What came is no frame of this protocol."""


class Library(msgspec.Struct, frozen=True, array_like=True):
    """Code that is imported by name."""

    name: str
    code: str


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load", kw_only=True):
    """One transformation version, before anything runs. Everything that the code may know is in here."""

    transformation_id: str
    name: str
    code: str
    code_version: str
    """"1", or "0": RudderStack's legacy JavaScript."""
    libraries: tuple[Library, ...]
    credentials: dict[str, str]
    """What `getCredential(key)` tells."""
    settings: bytes
    """JSON: the mapping handed to Segment's functions."""
    seeded: bool
    """Random numbers and the clock come from `Run.seeds` and `Run.now_ms`."""
    fetch: bool
    """Whether a `fetch` can ever succeed: False = answer it in the child, ask nobody."""
    geolocation: bool
    memory_bytes: int
    """For the code's own data, on top of what the process has when it is jailed."""
    timeout_s: float
    """For one batch; the parent kills somewhat later, whatever the child does."""
    max_result_bytes: int
    """JSON of one event's results together; more makes that event `Failed`."""
    max_answer_bytes: int
    """`Done.results` in all; more is answered by `Overflow`."""
    max_log_bytes: int
    """Of all log lines of a batch; the rest is cut."""
    allow_weak: bool
    """Go on where the kernel lacks a layer of the jail. False: the child ends instead, with `NotLoaded`."""


class Run(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    """One batch."""

    events: bytes
    """JSON: an array of messages."""
    metadata: bytes
    """JSON: an array of mappings (`Given.metadata`), one a message. Parse it when it is first asked for."""
    seeds: tuple[str, ...]
    now_ms: tuple[int, ...]
    logs: bool
    """Whether `log()` is kept."""


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    """What came of an `Ask`."""

    id: int
    value: bytes
    """JSON; with `error` the text for people, as a JSON string or object."""
    error: bool = False


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag="loaded"):
    """The code is compiled and waits for batches."""

    missing_layers: tuple[str, ...] = ()
    """Layers of the jail that this kernel doesn't have (`Load.allow_weak` only)."""


class NotLoaded(msgspec.Struct, frozen=True, array_like=True, tag="not_loaded"):
    """The child can't go on and ends."""

    reason: str
    """For people."""
    code_is_wrong: bool
    """True: the user's code; every event fails with `reason`. False: the machine; nothing runs here."""


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """The batch ran."""

    results: bytes
    """JSON: an array, one item an event, in order. An array of messages: kept; null: dropped; a string: failed,
    and why (at most 500 characters)."""
    saw_destination: bool
    """Whether the code looked at a metadata field that begins with `destination`."""
    logs: tuple[str, ...] = ()


class Overflow(msgspec.Struct, frozen=True, array_like=True, tag="overflow"):
    """The batch ran, its results are longer than `Load.max_answer_bytes`: run it in smaller parts."""


class Stopped(msgspec.Struct, frozen=True, array_like=True, tag="stopped"):
    """The child stopped the code by itself, before the parent killed it. Optional: a child that just dies or goes
    on too long is found out too, by halving the batch; this saves the halving."""

    cause: Literal["time", "memory", "spoilt"]
    """spoilt: nobody's fault in this batch, which did not run: an earlier one left something that can't be undone."""
    suspect: int = -1
    """The position in the batch of the event that ran; -1: unknown."""
    certain: bool = False
    """The suspect alone used (nearly) the whole time limit: it need not be tried alone."""


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """The code calls the world; the parent decides and answers. Ids are unique within a `Run`."""

    id: int
    what: str
    """`fetch` or `geolocation`."""
    argument: bytes
    """JSON. fetch: `{"url", "method", "headers", "body"}` (body: text or null), answered by
    `{"url", "status", "headers", "body"}` (body: text). geolocation: the address, answered by a mapping."""


ToChild = Load | Run | Answer
ToParent = Loaded | NotLoaded | Done | Overflow | Stopped | Ask

_encoder: Final = msgspec.msgpack.Encoder()
_to_child: Final[msgspec.msgpack.Decoder[ToChild]] = msgspec.msgpack.Decoder(ToChild)
_to_parent: Final[msgspec.msgpack.Decoder[ToParent]] = msgspec.msgpack.Decoder(ToParent)


def pack(message: ToChild | ToParent) -> bytes:
    """Return the frame.

    Raises:
        Malformed: it is longer than a frame may be.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise Malformed(f"{len(body):,} bytes are more than a frame of {MAX_FRAME_BYTES:,} bytes holds")
    return _LENGTH.pack(len(body)) + body


def length_of(head: bytes | bytearray) -> int:
    """Return how many bytes follow a frame's first four.

    Raises:
        Malformed: more than a frame may have.
    """
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise Malformed(f"a frame of {length:,} bytes was announced")
    return int(length)


def parse_for_parent(body: bytes) -> ToParent:
    """Return what the child says.

    Raises:
        Malformed: it is none of `ToParent`.
    """
    try:
        return _to_parent.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a frame: {error}") from None


class ChildChannel:
    """The child's end: blocking, one thread."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        """Return the socket's number: all that stays open in the jail."""
        return self._end.fileno()

    def receive(self) -> ToChild:
        """Wait for the parent's next message.

        Raises:
            Closed: the parent is gone.
        """
        return _to_child.decode(self._exactly(length_of(self._exactly(_LENGTH.size))))

    def send(self, message: ToParent) -> None:
        """Send it whole.

        Raises:
            Closed: the parent is gone.
        """
        try:
            self._end.sendall(pack(message))
        except OSError as error:
            raise Closed from error

    def _exactly(self, length: int) -> bytearray:
        read = bytearray(length)
        view = memoryview(read)
        while len(view):
            count = self._end.recv_into(view)
            if not count:
                raise Closed
            view = view[count:]
        return read
