"""What an operator may set about the gateway. The text under a field is its documentation."""

import msgspec


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and addresses of the gateway."""

    max_request_bytes: int = 8 * 1024 * 1024
    """The largest request body, on the wire and decoded. SDKs send up to 4 MiB."""
    max_event_bytes: int = 512 * 1024
    """The largest event; a larger one is rejected, the rest of its batch is not."""
    warn_event_bytes: int = 32 * 1024
    """The documented size of an event; larger ones are accepted and counted as `oversize`."""
    max_depth: int = 64
    """How deep the JSON of an event may be nested."""
    max_batch_events: int = 10_000
    """The most events in one request."""
    header_timeout_s: float = 10.0
    """How long the head of a request may take to come in; then the connection is closed."""
    body_timeout_s: float = 60.0
    """How long the body of a request may take to come in, or a client may refuse to read its answers."""
    idle_timeout_s: float = 75.0
    """How long a kept-alive connection may do nothing."""
    max_header_bytes: int = 32 * 1024
    """The largest head of a request."""
    max_connections: int = 10_000
    """Open connections; further ones are answered 503."""
    max_buffered_bytes: int = 256 * 1024 * 1024
    """Bytes of requests still coming in, over all connections; more is answered 503."""
    max_backlog_bytes: int = 128 * 1024 * 1024
    """Bytes waiting for stable storage at which requests are answered 503, early, before they are read."""
    max_events_per_s: float = 0.0
    """Events a second that each source may send to this process, with bursts of ten seconds' worth; more is
    answered 429 with Retry-After. 0 = no limit."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks (CIDR) of proxies in front: only from these are X-Forwarded-For and
    X-Forwarded-Proto believed. request_ip is then the rightmost address that is not a trusted proxy."""
    public_url: str = ""
    """Where SDKs reach this gateway, as told to them in settings documents, e.g. `https://events.example.com`;
    empty = as the request was addressed (Host header)."""
    sweep_interval_s: float = 1.0
    """How often time limits are looked at and metrics are brought up to date."""
