"""Every setting of a Mainstem process: one flat, documented list, read once and passed down.

A key `data_dir` is `MAINSTEM_DATA_DIR` in the environment and `data_dir` in the TOML file. Later wins: the
default, the TOML file (`--settings FILE`, or `MAINSTEM_SETTINGS`, or `./mainstem.toml` when it exists), the
environment, the command line. An unknown key is an error that names it, so a misspelt setting is never
silently the default. `docs/reference/settings.md` is generated from here.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from mainstem.errors import SettingsError
from mainstem.secret import Secret

PREFIX: Final = "MAINSTEM_"
SECRETS_PREFIX: Final = "MAINSTEM_SECRET_"
"""Variables that are no settings: a control plane's workspace may refer to these, and to no others."""


def _d(text: str) -> Meta:
    return Meta(description=text)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a process is told about its surroundings. What it should do with events is the workspace's."""

    # ---- where things are
    data_dir: Annotated[str, _d("Folder for the embedded stream, the ledger and last good copies.")] = (
        "./data"
    )
    workspace: Annotated[
        str,
        _d(
            "Workspace: a YAML file, a RudderStack `workspaceConfig.json`, or the URL of a control plane. "
            "Empty: `<data_dir>/workspace.yaml`, made at the first start."
        ),
    ] = ""
    workspace_token: Annotated[Secret, _d("Token for a control plane (Basic user name).")] = Secret("")
    workspace_poll_s: Annotated[float, _d("How often the workspace is looked at for changes.")] = 1.0
    stream: Annotated[
        str, _d("Stream URL: `file:<folder>`, or `memory:`. Empty: `file:<data_dir>/stream`.")
    ] = ""
    stream_partitions: Annotated[
        int, _d("Partitions of a new stream; fixed once the stream exists."), Meta(ge=1, le=1024)
    ] = 8
    geoip_database: Annotated[str, _d("Path of a MaxMind DB file for geo enrichment; empty = none.")] = ""

    # ---- listening
    host: Annotated[str, _d("Address the gateway listens on.")] = "0.0.0.0"  # noqa: S104 - SDKs must reach it
    port: Annotated[int, _d("Port of the gateway."), Meta(ge=0, le=65535)] = 8080
    ops_host: Annotated[
        str, _d("Address of the operations endpoints (metrics, health, explain). They have no login.")
    ] = "127.0.0.1"
    ops_port: Annotated[int, _d("Port of the operations endpoints."), Meta(ge=0, le=65535)] = 8081
    gateways: Annotated[int, _d("Gateway processes that `serve` runs."), Meta(ge=1, le=64)] = 1
    workers: Annotated[int, _d("Worker processes that `serve` runs."), Meta(ge=1, le=64)] = 1
    restart_delay_max_s: Annotated[
        float,
        _d("A process of `serve` that keeps ending is started again after at most this time."),
        Meta(ge=0.1),
    ] = 5.0
    public_url: Annotated[
        str,
        _d("URL at which SDKs reach the gateway, for the settings documents; empty = from the Host header."),
    ] = ""
    trusted_proxies: Annotated[
        tuple[str, ...],
        _d(
            "Networks (CIDR) of proxies whose X-Forwarded-For is believed. In the environment: comma-separated."
        ),
    ] = ()

    # ---- gateway bounds
    gateway_max_request_bytes: Annotated[
        int, _d("Largest request body, on the wire and decoded. SDKs send up to 4 MiB.")
    ] = 8 * 1024 * 1024
    gateway_max_event_bytes: Annotated[int, _d("Largest event; larger ones are rejected one by one.")] = (
        512 * 1024
    )
    gateway_warn_event_bytes: Annotated[
        int, _d("Events above this are counted as oversize, but accepted.")
    ] = 32 * 1024
    gateway_max_batch_events: Annotated[int, _d("Most events in one request.")] = 10_000
    gateway_max_depth: Annotated[int, _d("How deep the JSON of an event may be nested.")] = 64
    gateway_header_timeout_s: Annotated[float, _d("Time for a request's headers to arrive.")] = 10.0
    gateway_body_timeout_s: Annotated[float, _d("Time for a request's body to arrive.")] = 60.0
    gateway_idle_timeout_s: Annotated[float, _d("How long an idle connection is kept.")] = 75.0
    gateway_max_header_bytes: Annotated[int, _d("Largest head of a request.")] = 32 * 1024
    gateway_max_connections: Annotated[
        int, _d("Open connections per gateway process; more are answered 503.")
    ] = 10_000
    gateway_max_buffered_bytes: Annotated[
        int, _d("Bytes of requests still coming in, over all connections; more is answered 503.")
    ] = 256 * 1024 * 1024
    gateway_max_backlog_bytes: Annotated[
        int, _d("Bytes waiting to be durable, above which requests are answered 503.")
    ] = 128 * 1024 * 1024
    gateway_max_events_per_s: Annotated[
        float,
        _d("Events a second that one source may send to one gateway process; more is answered 429. 0 = any."),
    ] = 0.0

    # ---- stream
    stream_segment_bytes: Annotated[int, _d("A segment is closed at this size.")] = 256 * 1024 * 1024
    stream_segment_age_s: Annotated[float, _d("… or at this age.")] = 3600.0
    stream_retention_s: Annotated[float, _d("Settled events are kept this long for replay and explain.")] = (
        7 * 86_400.0
    )
    stream_retention_bytes: Annotated[
        int, _d("Settled segments beyond this size are dropped, oldest first.")
    ] = 20 * 1024**3
    stream_retention_force_bytes: Annotated[
        int,
        _d(
            "Hard limit: drop the oldest segment above this even if a destination still needs it. "
            "Loses events, loudly. 0 = never."
        ),
    ] = 0
    stream_min_free_bytes: Annotated[
        int,
        _d("While the disk has less, events are answered 503, so that what was accepted can be delivered."),
    ] = 64 * 1024 * 1024
    dedup_window_s: Annotated[float, _d("A messageId seen again within this time is a duplicate.")] = 86_400.0
    dedup_max_ids: Annotated[
        int, _d("At most this many messageIds are remembered (about 10 bytes each).")
    ] = 20_000_000

    # ---- delivery
    allow_private_destinations: Annotated[
        bool, _d("Let destinations be on loopback, private and link-local addresses.")
    ] = False
    allowed_destination_networks: Annotated[
        tuple[str, ...],
        _d(
            "Networks (CIDR) that destinations may be in although they are private or special, one by one. "
            "In the environment: comma-separated."
        ),
    ] = ()
    sandbox_max_processes: Annotated[
        int,
        _d(
            "Sandboxes for user code alive at once in one worker. Each version in use has one or two; with more "
            "versions than this they take turns, at the price of starting anew, and a warning says so once."
        ),
        Meta(ge=1, le=256),
    ] = 8
    allow_weak_sandbox: Annotated[
        bool,
        _d(
            "Run user code even where the kernel lacks a layer of the sandbox (`mainstem doctor` says which). "
            "Off: transformations with code wait, and `/health` says why."
        ),
    ] = False
    drain_timeout_s: Annotated[float, _d("Time to finish what is in flight when stopping.")] = 20.0
    silence_limit_s: Annotated[
        float,
        _d(
            "A gateway or worker of `serve` that answers nothing for so long is ended and started again; first it "
            "writes to standard error where its threads stand."
        ),
        Meta(gt=0),
    ] = 30.0
    max_lag_events: Annotated[
        int, _d("`/ready` still answers 200 when a destination lags; above this it is named in `/health`.")
    ] = 1_000_000

    # ---- telemetry
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _d("debug, info, warning or error.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "text"], _d("auto (text on a terminal, else JSON), json or text.")
    ] = "auto"

    @property
    def data_path(self) -> Path:
        """The data folder."""
        return Path(self.data_dir)

    @property
    def workspace_location(self) -> str:
        """Where the workspace is: the setting, or the default file."""
        return self.workspace or str(self.data_path / "workspace.yaml")

    @property
    def stream_url(self) -> str:
        """The stream's URL: the setting, or the embedded one under the data folder."""
        return self.stream or f"file:{self.data_path / 'stream'}"


KEYS: Final = tuple(field.name for field in msgspec.structs.fields(Settings))


def load_settings(
    overrides: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    settings_file: str | None = None,
    pairs: Iterable[str] = (),
) -> Settings:
    """Return the settings of this process.

    Args:
        overrides: from the command line; None values are ignored.
        environ: instead of the process's environment.
        settings_file: from the command line.
        pairs: `key=value` texts from the command line, for settings without an option of their own.

    Raises:
        SettingsError: unknown key, wrong type, out of range, unreadable file.
    """
    env = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    path = (
        settings_file or env.get(f"{PREFIX}SETTINGS") or ("mainstem.toml" if _exists("mainstem.toml") else "")
    )
    if path:
        values.update(_from_toml(Path(path)))
    for name, text in env.items():
        if name.startswith(PREFIX) and name != f"{PREFIX}SETTINGS" and not name.startswith(SECRETS_PREFIX):
            key = name.removeprefix(PREFIX).lower()
            if key not in KEYS:
                raise SettingsError(f"environment {name}: no such setting{_hint(key)}")
            values[key] = _from_text(key, text, f"environment {name}")
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or key not in KEYS:
            raise SettingsError(f"--set {pair}: write it as KEY=VALUE{_hint(key)}")
        values[key] = _from_text(key, text, f"--set {key}")
    values.update({key: value for key, value in (overrides or {}).items() if value is not None})
    try:
        return msgspec.convert(values, Settings, dec_hook=_to_secret)
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings: {error}") from None


def environment() -> Mapping[str, str]:
    """Return the process's environment, for references in a workspace file (`${NAME}`)."""
    return dict(os.environ)


def settings_to_json(settings: Settings) -> bytes:
    """Return settings for a child process, secrets included: for its standard input only."""
    return msgspec.json.encode(settings, enc_hook=_from_secret)


def settings_from_json(text: bytes) -> Settings:
    """Return the settings that `settings_to_json` wrote."""
    return msgspec.json.decode(text, type=Settings, dec_hook=_to_secret)


def _to_secret(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise msgspec.ValidationError(f"Expected text, got {type(value).__name__}")


def _from_secret(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(type(value))


def _exists(name: str) -> bool:
    return Path(name).is_file()


def _from_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path}: {error}") from None
    for key in values:
        if key not in KEYS:
            raise SettingsError(f"settings file {path}: `{key}`: no such setting{_hint(key)}")
    return values


def _hint(key: str) -> str:
    close = difflib.get_close_matches(key, KEYS, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def _from_text(key: str, text: str, origin: str) -> Any:
    kind = field_type(key)
    if kind in (str, Secret) or get_origin(kind) is Literal:
        return text
    if kind is bool:
        lowered = text.strip().lower()
        if lowered in ("true", "1", "yes", "on"):
            return True
        if lowered in ("false", "0", "no", "off", ""):
            return False
        raise SettingsError(f"{origin}: `{text}` is neither true nor false")
    if get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return kind(text)
    except ValueError:
        raise SettingsError(f"{origin}: `{text}` is not {'a whole' if kind is int else 'a'} number") from None


def field_type(key: str) -> Any:
    """Return the plain type of a setting."""
    hint = get_type_hints(Settings, include_extras=True)[key]
    return get_args(hint)[0]


def describe(key: str) -> str:
    """Return a setting's documentation."""
    hint = get_type_hints(Settings, include_extras=True)[key]
    return next(str(meta.description) for meta in get_args(hint)[1:] if meta.description)
