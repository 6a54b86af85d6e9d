"""`mainstem serve | gateway | worker | doctor`: processes that run, and whether they could."""

import asyncio
import sys

import uvloop
from cyclopts import App
from rich.console import Console

from mainstem.cli.options import (
    DataDir,
    Host,
    OpsHost,
    OpsPort,
    Port,
    Set,
    SettingsFile,
    WorkspacePath,
    read_settings,
)
from mainstem.clock import SystemClock
from mainstem.roles.child import SWITCH_INTERVAL_S
from mainstem.roles.doctor import diagnose
from mainstem.roles.serve import serve as serve_all
from mainstem.roles.standalone import run_gateway, run_worker


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
