"""The entry of a process that `serve` starts: `python -m mainstem.roles.child ROLE NAME [SOCKET_FD]`."""

import asyncio
import contextlib
import faulthandler
import gc
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

import uvloop

from mainstem.clock import Clock, SystemClock
from mainstem.roles.channel import ParentChannel
from mainstem.roles.exposition import families
from mainstem.settings import Settings, settings_from_json
from mainstem.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mainstem.roles.gateway import GatewayRole
    from mainstem.roles.worker_role import WorkerRole

_log = log.logger(__name__)

# A worker hands the interpreter from its event loop to the HTTP client's threads and back. The default of 5 ms
# between forced hand-overs would be most of an answer's time under load.
SWITCH_INTERVAL_S: Final = 0.0005
COLLECT_AFTER: Final = (50_000, 20, 20)
"""Objects before the collector looks at the young, and its rounds before it looks at older ones. Events are trees and
go without it; thousands are held at a time, and at the default of 700 walking them again and again doubles the time
that reading an event takes."""


async def _run(role_name: str, name: str, fd: int | None) -> int:
    # Only the parent stops us (by closing the channel), so that gateways drain before workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = await ParentChannel.open()
    settings = settings_from_json(await channel.settings())
    log.configure(settings.log_level, settings.log_format)
    clock = SystemClock()
    role = _gateway(settings, clock, fd) if role_name == "gateway" else _worker(settings, clock, name)
    async with contextlib.AsyncExitStack() as stack:
        await role.start(stack)
        terminated = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
        # What is loaded by now stays: the collector need not walk it again in the middle of an answer.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        channel.ready({"name": name})
        answers: dict[str, Callable[[], Awaitable[Any]]] = {
            "alive": _alive,
            "metrics": _metrics,
            "health": role.health,
            "status": role.status,
        }
        closed = asyncio.create_task(channel.answer_until_closed(answers))
        ended = asyncio.create_task(terminated.wait())
        failed = asyncio.create_task(role.failed())
        await asyncio.wait([closed, ended, failed], return_when=asyncio.FIRST_COMPLETED)
        why = failed.result() if failed.done() else ""
        for task in (ended, failed):
            task.cancel()
        if why:
            # Half a role would look alive: end, and be started again whole.
            _log.critical("process can't go on", process=name, error=why)
        await role.stop()
        closed.cancel()
    return 1 if why else 0


# Only what the role needs is imported: clients wait while a gateway starts again after a crash.


def _gateway(settings: Settings, clock: Clock, fd: int | None) -> "GatewayRole | WorkerRole":
    from mainstem.roles.gateway import GatewayRole

    assert fd is not None  # noqa: S101 - given by the supervisor
    return GatewayRole(settings, clock, socket.socket(fileno=fd))


def _worker(settings: Settings, clock: Clock, name: str) -> "GatewayRole | WorkerRole":
    from mainstem.roles.worker_role import WorkerRole

    return WorkerRole(settings, clock, seat=name)


async def _alive() -> Any:
    return True


async def _metrics() -> Any:
    return families()


def main() -> None:
    """Run the role named on the command line."""
    role_name, name = sys.argv[1], sys.argv[2]
    fd = int(sys.argv[3]) if len(sys.argv) > 3 else None
    # By the parent, before it ends a process that answers no more. Works whatever the interpreter is waiting for.
    faulthandler.register(signal.SIGUSR1)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    sys.exit(uvloop.run(_run(role_name, name, fd)))


if __name__ == "__main__":
    main()
