"""`mainstem gateway` and `mainstem worker`: one role as a process of its own, with its own operations endpoints."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from mainstem.clock import Clock
from mainstem.errors import MainstemError
from mainstem.roles.exposition import Family, families
from mainstem.roles.gateway import GatewayRole
from mainstem.roles.ops import Health, Operations, OperationsServer
from mainstem.roles.supervisor import listen, until_signalled
from mainstem.roles.worker_role import WorkerRole
from mainstem.settings import Settings
from mainstem.telemetry.log import logger

_log = logger(__name__)


class RoleFailed(MainstemError):
    """A role ended by itself; whoever started it should start it again."""


async def run_gateway(settings: Settings, clock: Clock) -> None:
    """Run a gateway until TERM or INT."""
    sock = listen(settings.host, settings.port)
    await _run(GatewayRole(settings, clock, sock), "gateway", settings)


async def run_worker(settings: Settings, clock: Clock) -> None:
    """Run a worker until TERM or INT."""
    await _run(WorkerRole(settings, clock), "worker", settings)


async def _run(role: GatewayRole | WorkerRole, name: str, settings: Settings) -> None:
    ops_sock = listen(settings.ops_host, settings.ops_port)
    async with AsyncExitStack() as stack:
        await role.start(stack)
        operations = OperationsServer(_operations(role, name), ops_sock)
        serving = asyncio.create_task(operations.serve())
        _log.info("up", role=name, operations=f"{settings.ops_host}:{ops_sock.getsockname()[1]}")
        failed = asyncio.create_task(role.failed())
        signalled = asyncio.create_task(
            until_signalled(lambda: _log.warning("HUP is for `mainstem serve`; ignored"))
        )
        await asyncio.wait([failed, signalled], return_when=asyncio.FIRST_COMPLETED)
        why = failed.result() if failed.done() else ""
        _log.info("stopping", role=name, signal="" if why else signalled.result())
        for task in (failed, signalled):
            task.cancel()
        await role.stop()
        operations.close()
        await asyncio.gather(serving, failed, signalled, return_exceptions=True)
    if why:
        raise RoleFailed(f"the {name} could not go on: {why}")


def _operations(role: GatewayRole | WorkerRole, name: str) -> Operations:
    async def metrics() -> Mapping[str, list[Family]]:
        return {name: families()}

    async def health() -> Health:
        found = await role.health()
        problems = list(found["problems"])
        return Health(healthy=not problems, ready=not problems, problems=problems, details={})

    async def nothing(*_: str) -> list[Any]:
        return []

    status: Callable[[], Awaitable[Mapping[str, Any]]] = role.status
    return Operations(metrics=metrics, health=health, destinations=status, books=nothing, explain=nothing)
