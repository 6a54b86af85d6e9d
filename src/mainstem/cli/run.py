"""`mainstem serve | gateway | worker | doctor`: processes that run, and whether they could."""

import asyncio
import sys
from typing import Annotated, Any

import uvloop
from cyclopts import App, Parameter
from rich.console import Console

from mainstem.clock import SystemClock
from mainstem.errors import SettingsError
from mainstem.roles.child import SWITCH_INTERVAL_S
from mainstem.roles.doctor import diagnose
from mainstem.roles.serve import serve as serve_all
from mainstem.roles.standalone import run_gateway, run_worker
from mainstem.settings import Settings, load_settings
from mainstem.telemetry import log

WorkspacePath = Annotated[
    str | None,
    Parameter(help="Workspace: YAML file, RudderStack workspaceConfig.json, or control plane URL."),
]
DataDir = Annotated[str | None, Parameter(help="Folder for the stream, the ledger and last good copies.")]
Host = Annotated[str | None, Parameter(help="Address the gateway listens on.")]
Port = Annotated[int | None, Parameter(help="Port of the gateway.")]
OpsHost = Annotated[str | None, Parameter(help="Address of the operations endpoints.")]
OpsPort = Annotated[int | None, Parameter(help="Port of the operations endpoints.")]
SettingsFile = Annotated[str | None, Parameter(name="--settings", help="TOML file with settings.")]
Set = Annotated[
    list[str] | None, Parameter(name="--set", help="Any other setting: --set gateways=2", negative=())
]


def read_settings(
    settings_file: str | None, pairs: list[str] | None, *, quiet: bool = False, **given: Any
) -> Settings:
    """Return the settings of a command, and configure logging by them.

    Args:
        quiet: a command that answers a question; its logs begin at warnings.

    Raises:
        SettingsError: see `load_settings`.
    """
    settings = load_settings(given, settings_file=settings_file, pairs=pairs or ())
    level = "warning" if quiet and settings.log_level == "info" else settings.log_level
    log.configure(level, settings.log_format)
    return settings


def read_installed(settings_file: str | None, pairs: list[str] | None, **given: Any) -> Settings:
    """Return the settings of a command that looks into an installation: there has to be one.

    Raises:
        SettingsError: see `load_settings`; or the data folder is not there (a look must not make one).
    """
    settings = read_settings(settings_file, pairs, **given)
    if not settings.data_path.is_dir():
        raise SettingsError(
            f"data folder {settings.data_path}: there is none; say where it is with --data-dir (MAINSTEM_DATA_DIR)"
        )
    return settings


def register(app: App) -> None:
    """Add the commands."""

    @app.command
    def serve(
        *,
        workspace: WorkspacePath = None,
        data_dir: DataDir = None,
        host: Host = None,
        port: Port = None,
        ops_host: OpsHost = None,
        ops_port: OpsPort = None,
        settings: SettingsFile = None,
        more: Set = None,
    ) -> None:
        """Run everything: gateway, workers, operations endpoints. Ctrl-C drains and stops."""
        known = read_settings(
            settings,
            more,
            workspace=workspace,
            data_dir=data_dir,
            host=host,
            port=port,
            ops_host=ops_host,
            ops_port=ops_port,
        )
        uvloop.run(serve_all(known, SystemClock()))

    @app.command
    def gateway(
        *,
        workspace: WorkspacePath = None,
        data_dir: DataDir = None,
        host: Host = None,
        port: Port = None,
        ops_host: OpsHost = None,
        ops_port: OpsPort = None,
        settings: SettingsFile = None,
        more: Set = None,
    ) -> None:
        """Run one gateway alone (workers run elsewhere on the same stream)."""
        known = read_settings(
            settings,
            more,
            workspace=workspace,
            data_dir=data_dir,
            host=host,
            port=port,
            ops_host=ops_host,
            ops_port=ops_port,
        )
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        uvloop.run(run_gateway(known, SystemClock()))

    @app.command
    def worker(
        *,
        workspace: WorkspacePath = None,
        data_dir: DataDir = None,
        ops_host: OpsHost = None,
        ops_port: OpsPort = None,
        settings: SettingsFile = None,
        more: Set = None,
    ) -> None:
        """Run one worker alone; workers on one stream share its partitions."""
        known = read_settings(
            settings, more, workspace=workspace, data_dir=data_dir, ops_host=ops_host, ops_port=ops_port
        )
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        uvloop.run(run_worker(known, SystemClock()))

    @app.command
    def doctor(
        *,
        workspace: WorkspacePath = None,
        data_dir: DataDir = None,
        settings: SettingsFile = None,
        more: Set = None,
    ) -> int:
        """Check this machine, the settings, the data folder and the workspace; say what to do."""
        known = read_settings(settings, more, quiet=True, workspace=workspace, data_dir=data_dir)
        findings = asyncio.run(diagnose(known, SystemClock()))
        console = Console(highlight=False, soft_wrap=True)
        marks = {"ok": "[green]ok  [/]", "warning": "[yellow]warn[/]", "error": "[red]FAIL[/]"}
        for finding in findings:
            console.print(f"{marks[finding.level]} {finding.what}: ", end="")
            console.print(finding.detail, markup=False)
        return 1 if any(finding.level == "error" for finding in findings) else 0
