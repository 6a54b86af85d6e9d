"""`mainstem doctor`: would it run here, and if not, what to do."""

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Literal

import apsw
import msgspec

from mainstem.clock import Clock
from mainstem.destinations.catalog import find_spec
from mainstem.errors import MainstemError
from mainstem.pipeline.errors import PlanInvalid
from mainstem.pipeline.plan import compile_plan
from mainstem.roles.books import read_all_books
from mainstem.roles.rooms import guard_of, open_geo, open_the_ledger, open_the_stream, open_the_workspace
from mainstem.roles.supervisor import listen
from mainstem.settings import Settings
from mainstem.transformations.sandbox.process import NotStarted, probe_layers

_LOW_DISK_BYTES: Final = 2 * 1024**3
_LOW_FILES: Final = 4096
# https://sqlite.org/wal.html#walresetbug: fixed in 3.51.3
_SOUND_SQLITE: Final = (3, 51, 3)


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    level: Literal["ok", "warning", "error"]
    what: str
    detail: str


_Check = Callable[[Settings, Clock], Awaitable[list[Finding]]]


async def diagnose(settings: Settings, clock: Clock) -> list[Finding]:
    """Look at everything; a check that fails is a finding, never an end."""
    findings: list[Finding] = []
    checks: tuple[_Check, ...] = (_machine, _folder, _ports, _geo, _sandbox, _workspace, _state)
    for check in checks:
        try:
            findings += await check(settings, clock)
        except MainstemError as error:
            findings.append(Finding("error", check.__name__.strip("_"), str(error)))
    return findings


async def _machine(settings: Settings, clock: Clock) -> list[Finding]:
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    found = [
        Finding("ok", "python", sys.version.split()[0]),
        Finding("ok", "sqlite", apsw.sqlite_lib_version())
        if version >= _SOUND_SQLITE
        else Finding(
            "error", "sqlite", f"{apsw.sqlite_lib_version()} can corrupt its log; install apsw >= 3.51.3"
        ),
    ]
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found.append(
        Finding("ok", "open files", str(soft))
        if soft >= _LOW_FILES
        else Finding(
            "warning", "open files", f"limit {soft}: raise it with `ulimit -n 65536` for many clients"
        )
    )
    found.append(Finding("ok", "cores", str(os.cpu_count())))
    return found


async def _folder(settings: Settings, clock: Clock) -> list[Finding]:
    folder = settings.data_path
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    found = []
    if os.access(existing, os.W_OK):
        found.append(Finding("ok", "data folder", f"{folder}{'' if folder.exists() else ' (will be made)'}"))
    else:
        found.append(Finding("error", "data folder", f"{existing} can't be written; use --data-dir"))
    free = shutil.disk_usage(existing).free
    text = f"{free / 1024**3:.1f} GiB free"
    found.append(
        Finding("ok", "disk", text)
        if free >= _LOW_DISK_BYTES
        else Finding("warning", "disk", f"{text}; events are answered 503 when it is full")
    )
    return found


async def _ports(settings: Settings, clock: Clock) -> list[Finding]:
    found = []
    for name, host, port in (
        ("gateway port", settings.host, settings.port),
        ("operations port", settings.ops_host, settings.ops_port),
    ):
        try:
            listen(host, port).close()
            found.append(Finding("ok", name, f"{host}:{port} is free"))
        except MainstemError as error:
            found.append(Finding("warning", name, f"{error}; is Mainstem running already?"))
    return found


async def _geo(settings: Settings, clock: Clock) -> list[Finding]:
    if not settings.geoip_database:
        return []
    async with AsyncExitStack() as stack:
        open_geo(settings, stack)
    return [Finding("ok", "geo database", settings.geoip_database)]


def _exists(path: str) -> bool:
    return Path(path).exists()


async def _sandbox(settings: Settings, clock: Clock) -> list[Finding]:
    """Which layers of the sandbox for user code this machine has."""
    try:
        layers = await asyncio.to_thread(probe_layers)
    except NotStarted as error:
        return [Finding("error", "sandbox", f"{error}; transformations with code can't run here")]
    found = [Finding("ok", "sandbox", f"{', '.join(layers.holding)}; landlock ABI {layers.landlock_abi}")]
    if layers.missing:
        detail = f"this machine lacks {', '.join(layers.missing)}"
        found = [
            Finding("warning", "sandbox", f"{detail}; user code runs all the same (allow_weak_sandbox)")
            if settings.allow_weak_sandbox
            else Finding("error", "sandbox", f"{detail}; transformations with code wait")
        ]
    return found


async def _workspace(settings: Settings, clock: Clock) -> list[Finding]:
    if not settings.workspace and not _exists(settings.workspace_location):
        return [Finding("ok", "workspace", "none yet; `mainstem serve` makes one at its first start")]
    found = []
    guard = guard_of(settings)
    async with AsyncExitStack() as stack:
        workspace = await (await open_the_workspace(settings, clock, stack)).current()
    found.append(
        Finding(
            "ok",
            "workspace",
            f"{settings.workspace_location}: {len(workspace.sources)} sources, "
            f"{len(workspace.destinations)} destinations, version {workspace.version}",
        )
    )
    for destination in workspace.destinations:
        spec = find_spec(destination.type)
        if spec is None:
            found.append(Finding("error", destination.id, f"no destination type {destination.type}"))
            continue
        try:
            compile_plan(workspace, destination, spec)
        except PlanInvalid as error:
            found.append(Finding("error", destination.id, str(error)))
            continue
        url = next(
            (
                value
                for name in ("url", "webhook_url", "api_url", "endpoint")
                if isinstance(value := getattr(destination.config, name, None), str)
                and value.startswith(("http://", "https://"))
            ),
            "",
        )
        refusal = guard.check_url(url) if url else None
        state = "" if destination.enabled else " (disabled)"
        found.append(
            Finding("error", destination.id, refusal)
            if refusal
            else Finding("ok", destination.id, f"{spec.title}{state}")
        )
    return found


async def _state(settings: Settings, clock: Clock) -> list[Finding]:
    if not (settings.data_path / "ledger.db").exists():
        return []
    found = []
    async with AsyncExitStack() as stack:
        stream = await open_the_stream(settings, clock, stack)
        ledger = await open_the_ledger(settings, stack)
        await stream.check()
        await ledger.check()
        bounds = await stream.bounds()
        held = sum(at.next - at.earliest for at in bounds.values())
        found.append(Finding("ok", "stream", f"{held:,} events held in {len(bounds)} partitions"))
        for account in await read_all_books(stream, ledger):
            cursor = account.cursor
            text = f"{account.pending:,} pending ({account.parked:,} parked), {account.dead:,} dead"
            found.append(
                Finding("warning" if account.dead else "ok", f"books of {cursor}", text)
                if account.balanced
                else Finding("error", f"books of {cursor}", f"do not balance: {account}")
            )
    return found
