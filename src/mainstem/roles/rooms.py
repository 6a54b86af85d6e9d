"""Opening the rooms of a process from its settings: stream, ledger, transport, workspace. Closed in reverse."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import maxminddb

from mainstem.clock import Clock
from mainstem.delivery.guard import AddressGuard
from mainstem.destinations.catalog import OAUTH_SECRETS, check_config, find_spec, names, secret_fields
from mainstem.errors import SettingsError
from mainstem.events.canonical import parse_time_ms
from mainstem.ledger.base import Ledger
from mainstem.ledger.sqlite import open_ledger
from mainstem.pipeline.errors import ExpressionInvalid
from mainstem.pipeline.where import Where
from mainstem.settings import Settings, environment
from mainstem.stream.base import Stream
from mainstem.stream.embedded import EmbeddedLimits
from mainstem.stream.open import open_stream
from mainstem.transformations.ready import catalog as ready
from mainstem.workspace.checks import Checks, ConfigCheck, ReadyCheck
from mainstem.workspace.errors import Problem
from mainstem.workspace.model import Destination, Workspace, WorkspaceSource
from mainstem.workspace.open import open_workspace

if TYPE_CHECKING:
    from mainstem.events.geo import GeoDatabase


def guard_of(settings: Settings) -> AddressGuard:
    """Return the guard that every outgoing connection passes."""
    return AddressGuard(
        allow_private=settings.allow_private_destinations, allowed=settings.allowed_destination_networks
    )


async def open_the_stream(
    settings: Settings,
    clock: Clock,
    stack: AsyncExitStack,
    *,
    writer: Literal["thread", "process"] = "thread",
) -> Stream:
    """Open the stream; it is closed with the stack. `writer`: see `EmbeddedLimits`."""
    limits = EmbeddedLimits(
        segment_bytes=settings.stream_segment_bytes,
        segment_age_s=settings.stream_segment_age_s,
        retention_bytes=settings.stream_retention_bytes,
        retention_age_s=settings.stream_retention_s,
        retention_force_bytes=settings.stream_retention_force_bytes or None,
        dedup_window_s=settings.dedup_window_s,
        dedup_max_ids=settings.dedup_max_ids,
        max_backlog_bytes=settings.gateway_max_backlog_bytes,
        min_free_bytes=settings.stream_min_free_bytes,
        writer=writer,
    )
    stream = await open_stream(
        settings.stream_url, partitions=settings.stream_partitions, clock=clock, limits=limits
    )
    stack.push_async_callback(stream.close)
    return stream


async def open_the_ledger(settings: Settings, stack: AsyncExitStack) -> Ledger:
    """Open the ledger; it is closed with the stack."""
    settings.data_path.mkdir(parents=True, exist_ok=True)
    ledger = await open_ledger(settings.data_path / "ledger.db")
    stack.push_async_callback(ledger.close)
    return ledger


async def open_the_workspace(settings: Settings, clock: Clock, stack: AsyncExitStack) -> WorkspaceSource:
    """Open the workspace; it is closed with the stack."""
    source = open_workspace(
        settings.workspace_location,
        env=environment(),
        data_dir=settings.data_path,
        checks=CHECKS,
        clock=clock,
        token=settings.workspace_token,
        poll_interval_s=settings.workspace_poll_s,
    )
    stack.push_async_callback(source.close)
    return source


def open_geo(settings: Settings, stack: AsyncExitStack) -> "GeoDatabase | None":
    """Open the geo database if the operator gave one; it is closed with the stack.

    Raises:
        SettingsError: the file can't be read.
    """
    if not settings.geoip_database:
        return None
    # Its user-agent tables take a tenth of a second to import, and gateways have no use for them.
    from mainstem.events.geo import GeoDatabase

    try:
        database = GeoDatabase(Path(settings.geoip_database))
    except (OSError, maxminddb.InvalidDatabaseError) as error:
        raise SettingsError(f"geoip_database {settings.geoip_database}: {error}") from None
    stack.callback(database.close)
    return database


def _check_destination(type_name: str, raw: Mapping[str, Any]) -> ConfigCheck:
    spec = find_spec(type_name)
    if spec is None:
        return ConfigCheck(known=False, names=tuple(names()))
    result = check_config(type_name, raw)
    problems = [Problem(path, message) for path, message in result.errors]
    problems += [Problem(path, message, "warning") for path, message in result.warnings]
    secrets = secret_fields(spec.config)
    if spec.oauth is not None:
        secrets |= OAUTH_SECRETS
    return ConfigCheck(config=result.config, problems=tuple(problems), secret_fields=secrets)


def _check_expression(text: str) -> str | None:
    try:
        Where(text)
    except ExpressionInvalid as error:
        return str(error)
    return None


def _check_ready(name: str, raw: Mapping[str, Any]) -> ReadyCheck:
    spec = ready.find_spec(name)
    if spec is None:
        return ReadyCheck(known=False, names=tuple(ready.names()))
    result = ready.validate_settings(name, raw)
    problems = [Problem(path, message) for path, message in result.errors]
    problems += [Problem(path, message, "warning") for path, message in result.warnings]
    return ReadyCheck(
        config=result.config,
        problems=tuple(problems),
        secret_fields=spec.secret_fields,
        edge=spec.edge,
    )


CHECKS: Final = Checks(config=_check_destination, expression=_check_expression, ready=_check_ready)
"""What the workspace's loaders ask about settings and expressions."""


async def ensure_cursors(workspace: Workspace, stream: Stream, ledger: Ledger) -> None:
    """Give every destination its place in the log, before an event can arrive that it should have.

    A destination that is new begins where its `start` says; one that is known keeps its place. Registered
    with the stream too, so that retention waits for it.
    """
    bounds = None
    for destination in workspace.destinations:
        known = await ledger.positions(destination.id)
        if len(known) < stream.partitions:
            bounds = bounds or await stream.bounds()
            starts = {partition: await start_offset(destination, stream, partition) for partition in bounds}
            known = await ledger.open_cursor(destination.id, starts)
        await stream.commit(destination.id, {partition: at.next_offset for partition, at in known.items()})


async def start_offset(destination: Destination, stream: Stream, partition: int) -> int:
    """Return where a new destination begins in a partition."""
    bounds = (await stream.bounds())[partition]
    if destination.start == "earliest":
        return bounds.earliest
    moment = parse_time_ms(destination.start)
    if moment is None:
        return bounds.next
    return max(bounds.earliest, await stream.offset_at(partition, moment))
