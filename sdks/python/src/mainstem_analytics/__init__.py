"""Events from Python: on disk first, in order, none lost. To Mainstem, or to whatever speaks Segment's HTTP API.

    import mainstem_analytics as analytics

    analytics.write_key = "..."
    analytics.host = "https://events.example.com"
    analytics.track("user-1", "Order Completed", {"total": 9.95})

Code written for `segment.analytics` and `rudderstack.analytics` works with this import instead of theirs: settings are
attributes of the module, read at the first call; `Client` takes the same arguments.
"""

from __future__ import annotations

import functools as _functools
import threading as _threading
from typing import TYPE_CHECKING, Any, Callable

from mainstem_analytics.client import (
    DEFAULT_HOST,
    MAX_AGE_S,
    MAX_EVENT_BYTES,
    MAX_QUEUE_BYTES,
    MAX_QUEUE_SIZE,
    Client,
    Status,
)
from mainstem_analytics.context import bound
from mainstem_analytics.errors import (
    AnalyticsError,
    EventRefused,
    EventsDropped,
    EventTooLarge,
    HookFailed,
    InvalidCall,
    SendFailed,
    SendingPaused,
    StoreDamaged,
    StoreFailed,
)
from mainstem_analytics.version import VERSION

if TYPE_CHECKING:
    # Type checkers bring it; at run time nothing is needed.
    from typing_extensions import Concatenate, ParamSpec, TypeVar

    _P = ParamSpec("_P")
    _R = TypeVar("_R")

__version__ = VERSION
__all__ = [
    "AnalyticsError",
    "Client",
    "EventRefused",
    "EventTooLarge",
    "EventsDropped",
    "HookFailed",
    "InvalidCall",
    "SendFailed",
    "SendingPaused",
    "Status",
    "StoreDamaged",
    "StoreFailed",
    "alias",
    "bound",
    "close",
    "flush",
    "group",
    "identify",
    "join",
    "page",
    "reset",
    "screen",
    "set_consent",
    "shutdown",
    "status",
    "track",
]

# Settings: those of Segment's and RudderStack's libraries, then ours. See Client for what they mean.
write_key: str | None = None
host: str | None = DEFAULT_HOST
dataPlaneUrl: str | None = None  # noqa: N816 - RudderStack's name for host
data_plane_url: str | None = None
on_error: Any = None
debug: bool = False
log_handler: Any = None
send: bool = True
sync_mode: bool = False
max_queue_size: int = MAX_QUEUE_SIZE
gzip: bool = True
timeout: float = 15.0
max_retries: int | None = None
proxies: Any = None
upload_size: int = 100
upload_interval: float = 10.0
oauth_client_id: Any = None
oauth_client_key: Any = None
oauth_key_id: Any = None
oauth_auth_server: Any = None
oauth_scope: Any = None

durability: Any = "batch"
store_dir: Any = None
max_queue_bytes: int = MAX_QUEUE_BYTES
when_full: Any = "drop_oldest"
max_age_s: float = MAX_AGE_S
max_event_bytes: int = MAX_EVENT_BYTES
retry_most_s: float = 60.0
exit_timeout_s: float = 3.0
handle_sigterm: bool = True
middleware: Any = ()
consent: Any = "granted"
sample_rate: Any = None
context: Any = None
device_context: bool = False
remember_user: bool = False

default_client: Client | None = None
_making = _threading.Lock()


def _default() -> Client:
    """The client that the module's settings describe, made at the first call."""
    global default_client
    client = default_client
    if client is None:
        with _making:
            client = default_client
            if client is None:
                client = default_client = _make()
    return client


def _make() -> Client:
    return Client(
        write_key,
        host=dataPlaneUrl or data_plane_url or host,
        debug=debug,
        max_queue_size=max_queue_size,
        send=send,
        on_error=on_error,
        gzip=gzip,
        sync_mode=sync_mode,
        timeout=timeout,
        proxies=proxies,
        upload_size=upload_size,
        upload_interval=upload_interval,
        log_handler=log_handler,
        durability=durability,
        store_dir=store_dir,
        max_queue_bytes=max_queue_bytes,
        when_full=when_full,
        max_age_s=max_age_s,
        max_event_bytes=max_event_bytes,
        retry_most_s=retry_most_s,
        exit_timeout_s=exit_timeout_s,
        handle_sigterm=handle_sigterm,
        middleware=middleware,
        consent=consent,
        sample_rate=sample_rate,
        context=context,
        device_context=device_context,
        remember_user=remember_user,
        oauth_client_id=oauth_client_id,
        oauth_client_key=oauth_client_key,
        oauth_key_id=oauth_key_id,
        oauth_auth_server=oauth_auth_server,
        oauth_scope=oauth_scope,
    )


def _of_the_client(method: Callable[Concatenate[Client, _P], _R]) -> Callable[_P, _R]:
    """A function of the module that calls the default client: with the method's arguments, types and words."""

    @_functools.wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return method(_default(), *args, **kwargs)

    return call


identify = _of_the_client(Client.identify)
track = _of_the_client(Client.track)
page = _of_the_client(Client.page)
screen = _of_the_client(Client.screen)
group = _of_the_client(Client.group)
alias = _of_the_client(Client.alias)
reset = _of_the_client(Client.reset)
set_consent = _of_the_client(Client.set_consent)
flush = _of_the_client(Client.flush)
close = _of_the_client(Client.close)
join = _of_the_client(Client.join)
shutdown = _of_the_client(Client.shutdown)
status = _of_the_client(Client.status)
