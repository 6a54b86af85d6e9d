"""What runs transformations in a process: sandboxes, what user code may ask of the world, the ready-made ones' tools.

roles -> **sandboxes** -> `pipeline.transform.Transformer` -> `transformations.sandbox`
"""

from contextlib import AsyncExitStack

from mainstem.clock import Clock
from mainstem.delivery.errors import TransportError
from mainstem.delivery.transport import PyreqwestTransport, Transport, TransportOptions
from mainstem.destinations.base import Request
from mainstem.events.geo import GeoDatabase
from mainstem.pipeline.transform import Transformer
from mainstem.roles.rooms import guard_of
from mainstem.settings import Settings
from mainstem.telemetry import metrics
from mainstem.transformations.ready.base import Tools
from mainstem.transformations.sandbox.runtime import (
    MAX_RESPONSE_BYTES,
    Fetch,
    FetchFailed,
    FetchRequest,
    FetchResponse,
    SandboxLimits,
    SandboxRuntime,
)


def tools_of(geo: GeoDatabase | None) -> Tools:
    """Return what ready-made transformations are given here."""
    return Tools(locate=geo.locate if geo is not None else None)


def open_transformer(
    settings: Settings,
    clock: Clock,
    geo: GeoDatabase | None,
    stack: AsyncExitStack,
    *,
    may_fetch: bool = False,
) -> Transformer:
    """Return what runs transformations in this process. Sandboxes start when they are needed and end with the stack.

    Args:
        may_fetch: whether code may send requests to the hosts that its transformation allows. Workers let it; who
            only looks (dry run, explain) changes nothing in the world.
    """
    fetch: Fetch | None = None
    if may_fetch:
        # Redirects could lead out of the allowed hosts: the code sees them, and may follow. One byte more than is
        # allowed tells that a body was cut.
        options = TransportOptions(max_answer_bytes=MAX_RESPONSE_BYTES + 1, max_redirects=0)
        transport = PyreqwestTransport(guard_of(settings), clock, options=options)
        stack.push_async_callback(transport.close)
        fetch = fetch_by(transport)
    runtime = SandboxRuntime(
        fetch=fetch,
        locate=geo.locate if geo is not None else None,
        clock=clock,
        limits=SandboxLimits(processes=settings.sandbox_max_processes),
        allow_weak_sandbox=settings.allow_weak_sandbox,
    )
    stack.push_async_callback(runtime.close)
    metrics.SANDBOXES.set_function(lambda: len(runtime.processes()))
    transformer = Transformer(runtime, clock, most_warm=settings.sandbox_max_processes)
    stack.push_async_callback(transformer.close)
    return transformer


def fetch_by(transport: Transport) -> Fetch:
    """Return `fetch` for user code, by a transport that judges every address."""

    async def fetch(request: FetchRequest, timeout_s: float) -> FetchResponse:
        # With a Host of its own choosing, code would reach another site behind the same address.
        headers = tuple((name, value) for name, value in request.headers.items() if name.lower() != "host")
        body = (request.body or "").encode("utf-8", "replace")
        try:
            answer = await transport.send(
                Request(request.method, request.url, headers, body), timeout_s=timeout_s
            )
        except TransportError as error:
            raise FetchFailed(str(error)) from None
        text = answer.body.decode("utf-8", "replace")
        return FetchResponse(request.url, answer.status, dict(answer.headers), text)

    return fetch
