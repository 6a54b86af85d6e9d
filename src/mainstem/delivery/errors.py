"""What may go wrong while one request is sent; `delivery` turns each into a value for the event.

    MainstemError
    └── TransportError
        ├── Unsendable       permanent: the request itself is malformed
        ├── Refused          permanent: the address guard said no
        ├── ConnectFailed    retryable: no connection, so nothing was sent
        ├── TlsFailed        retryable: no trusted connection, so nothing was sent
        ├── TimedOut         retryable: may have been processed, unless `phase` says otherwise
        └── Cut              retryable: may have been processed

No text here ever holds a path, a query string, a header or a body: they carry customers' data and keys.
"""

from typing import ClassVar, Literal

from mainstem.errors import MainstemError

Phase = Literal["resolve", "pool", "connect", "answer", "body"]
"""Where the time went: looking the name up, waiting for a free slot, connecting (TLS included), waiting
for the head of the answer, reading its body. When all of the request's time ran out before the head of the
answer, and not the shorter time for connecting, it is "answer": the request may have been on its way."""

_PHASE_TEXT: dict[Phase, str] = {
    "resolve": "looking up the host name",
    "pool": "waiting for a free connection",
    "connect": "connecting",
    "answer": "waiting for the answer",
    "body": "reading the body of the answer",
}


class TransportError(MainstemError):
    """The request got no usable answer."""

    retryable: ClassVar[bool] = True
    """The same request may succeed later."""
    nothing_sent: bool = False
    """Certain that the destination saw nothing of the request."""

    def __init__(self, origin: str, detail: str) -> None:
        super().__init__(f"{origin}: {detail}")
        self.origin = origin
        """Scheme, host and port, never the path."""
        self.detail = detail


class Unsendable(TransportError):
    """The request is malformed (URL, method or a header): the same event will never be sendable."""

    retryable = False
    nothing_sent = True


class Refused(TransportError):
    """The address guard forbids this host; the text names the setting that allows it, if one does."""

    retryable = False
    nothing_sent = True


class ConnectFailed(TransportError):
    """No connection: the name does not resolve, or nobody accepts, or it closed during the handshake."""

    nothing_sent = True


class TlsFailed(TransportError):
    """The destination's certificate or TLS set-up is not acceptable (it may be renewed: retryable)."""

    nothing_sent = True


class TimedOut(TransportError):
    """No complete answer within the time allowed."""

    def __init__(self, origin: str, phase: Phase) -> None:
        super().__init__(origin, f"timed out {_PHASE_TEXT[phase]}")
        self.phase = phase
        self.nothing_sent = phase in ("resolve", "pool", "connect")


class Cut(TransportError):
    """The connection ended, or turned to something that is not HTTP, before a complete answer."""
