"""Options that many commands have, and the settings made of them."""

from typing import Annotated, Any

from cyclopts import Parameter

from mainstem.errors import SettingsError
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
