"""The reference pages that are written from the code: settings, metrics, command line, HTTP surface.

`python -m mainstem.cli.reference` writes them again into `docs/reference/`; a test fails while they differ
from the code. What is said to users stands beside the code that does it; nothing here is written twice.
"""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from cyclopts import App

from mainstem.cli import make_app
from mainstem.gateway.openapi import document
from mainstem.gateway.settings import GatewaySettings
from mainstem.roles import ops
from mainstem.secret import Secret
from mainstem.settings import KEYS, PREFIX, Settings, describe, field_type
from mainstem.telemetry.metrics import REGISTRY

COMMAND: Final = ".venv/bin/python -m mainstem.cli.reference"
_GENERATED: Final = f"<!-- Generated from the code. Write it again with: {COMMAND} -->\n"
_METHODS: Final = ("get", "post")


def reference_files() -> dict[str, str]:
    """Return the pages by file name."""
    return {
        "settings.md": settings_page(),
        "metrics.md": metrics_page(),
        "cli.md": cli_page(make_app()),
        "http-api.md": http_page(),
    }


def write_reference(directory: Path) -> None:
    """Write every page into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in reference_files().items():
        (directory / name).write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- settings


def settings_page() -> str:
    """Return the page of every setting."""
    defaults = Settings()
    rows = [
        f"| `{key}` | {_kind(key)} | {_default(getattr(defaults, key))} | {_cell(describe(key))} |"
        for key in KEYS
    ]
    return "\n".join(
        [
            "# Settings\n",
            _GENERATED,
            "What a process is told about its surroundings. What it does with events stands in the",
            "[workspace](workspace.md).\n",
            f"A setting `data_dir` is `{PREFIX}DATA_DIR` in the environment, `data_dir = …` in a TOML file and",
            "`--set data_dir=…` on the command line; the most used ones have an option of their own",
            "([command line](cli.md)). Later wins: the default, the TOML file, the environment, the command line.",
            f"The TOML file is the one of `--settings FILE`, else of `{PREFIX}SETTINGS`, else `mainstem.toml` in",
            f"the working directory. An unknown key is an error, also in the environment (`{PREFIX}…`). Settings",
            "are read at start; a changed setting needs a new start.\n",
            "```toml",
            "# mainstem.toml",
            'data_dir = "/var/lib/mainstem"',
            'workspace = "/etc/mainstem/workspace.yaml"',
            "gateways = 2",
            'trusted_proxies = ["10.0.0.0/8"]',
            "```\n",
            "| setting | form | default | |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _kind(key: str) -> str:
    kind = field_type(key)
    if get_origin(kind) is Literal:
        return " / ".join(f"`{word}`" for word in get_args(kind))
    if get_origin(kind) is tuple:
        return "list"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", Secret: "secret"}
    bounds = "".join(
        f", {sign} {bound}"
        for meta in get_args(get_type_hints(Settings, include_extras=True)[key])[1:]
        if isinstance(meta, msgspec.Meta)
        for sign, bound in (("≥", meta.ge), ("≤", meta.le))
        if bound is not None
    )
    return words[kind] + bounds


def _default(value: Any) -> str:
    match value:
        case "" | () | Secret():
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case float():
            return f"`{value:g}`"
        case _:
            return f"`{value}`"


# ---------------------------------------------------------------- metrics


def metrics_page() -> str:
    """Return the page of every metric."""
    rows = []
    for family in metric_families():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {_cell(family.text)} |")
    return "\n".join(
        [
            "# Metrics\n",
            _GENERATED,
            "`GET /metrics` on the operations port (8081) answers in Prometheus' text format, one page for all",
            "processes of `mainstem serve`; the label `process` (`serve`, `gateway-0`, `worker-0` …) tells them",
            "apart, so sum over it. Labels hold ids of configured things and fixed words, never a user id, an",
            "event name or a URL. Nothing is sent anywhere. What to watch: [monitoring](../how-to/monitoring.md).\n",
            "| metric | kind | labels | |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


class MetricFamily(msgspec.Struct, frozen=True):
    """One metric as it is read."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def metric_families() -> Iterator[MetricFamily]:
    """Yield every metric that is registered, in the order of the registry."""
    for family in REGISTRY.collect():
        # prometheus_client takes `_total` off a counter's name; who reads the page sees it.
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield MetricFamily(name, family.type, _labels(name), family.documentation)


def _labels(name: str) -> tuple[str, ...]:
    # A metric with labels but no value yet shows none of them: only the collector itself knows.
    collector: Any = REGISTRY._names_to_collectors[name]
    return tuple(collector._labelnames)


# ---------------------------------------------------------------- command line


class Option(msgspec.Struct, frozen=True):
    """An option or argument of a command."""

    names: tuple[str, ...]
    text: str
    value: str
    """What it takes: empty for a switch."""
    required: bool
    positional: bool


class Command(msgspec.Struct, frozen=True):
    """A command of the command line."""

    name: str
    text: str
    options: tuple[Option, ...]


def commands(app: App, prefix: str = "mainstem") -> Iterator[Command]:
    """Yield every command, those of groups too, in the order of registration."""
    for name in app:
        if name.startswith("-"):
            continue
        found, full = app[name], f"{prefix} {name}"
        if found.default_command is None:
            yield from commands(found, full)
            continue
        options = tuple(_option(argument) for argument in found.assemble_argument_collection())
        # The rest of a help text belongs to the page as much as its first line.
        yield Command(full, inspect.cleandoc(found.help or ""), options)


def _option(argument: Any) -> Option:
    hint = argument.hint
    names = tuple(argument.names)
    positional = argument.index is not None
    if positional:
        names = (names[0].removeprefix("--").upper().replace("-", "_"),)
    plain = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    kind = plain[0]
    words = {bool: "", int: "NUMBER", Path: "FILE"}
    value = "KEY=VALUE" if names == ("--set",) else words.get(kind, "TEXT")
    return Option(names, argument.parameter.help or "", value, argument.required, positional)


def cli_page(app: App) -> str:
    """Return the page of every command."""
    parts = [
        "# The command line\n",
        _GENERATED,
        "`mainstem` is installed into `.venv/bin`; `python -m mainstem` is the same. Every setting has its own",
        "page: [settings](settings.md). Exit codes: 0 done; 1 it failed, in words on standard error; 2 the",
        "command line, a setting or a document is wrong.\n",
        "`explain`, `books`, `tail`, `redrive` and `replay` open the data folder themselves: run them on the",
        "machine that holds it, with the same settings. They work whether or not `serve` is running.\n",
    ]
    for command in commands(app):
        arguments = " ".join(option.names[0] for option in command.options if option.positional)
        usage = " ".join(part for part in (command.name, arguments, "[options]") if part)
        parts += [f"## {command.name}\n", f"    {usage}\n", command.text + "\n"]
        rows = []
        for option in command.options:
            names = ", ".join(f"`{name}`" for name in option.names)
            shown = f"{names} {option.value}" if option.value and not option.positional else names
            rows.append(f"| {shown} | {_cell(option.text)}{' Required.' if option.required else ''} |")
        if rows:
            parts += ["| option | |", "|---|---|", *rows, ""]
    return "\n".join(parts)


# ---------------------------------------------------------------- HTTP


def operations_routes() -> Mapping[str, str]:
    """Return `GET /path` and its words for each operations endpoint, from the module's docstring."""
    routes = {}
    for line in inspect.cleandoc(ops.__doc__ or "").splitlines():
        method, _, rest = line.strip().partition(" ")
        if method == "GET":
            path, _, words = rest.strip().partition(" ")
            routes[f"{method} {path}"] = words.strip()
    return routes


def http_page() -> str:
    """Return the page of both HTTP surfaces."""
    api = document(GatewaySettings())
    routes: list[str] = []
    for path, methods in api["paths"].items():
        for method in _METHODS:
            if method in methods:
                found = methods[method]
                codes = ", ".join(found["responses"])
                routes.append(f"| `{method.upper()} {path}` | {_cell(found['summary'])} | {codes} |")
    codes_seen: dict[str, str] = {}
    for code, answer in api["paths"]["/v1/batch"]["post"]["responses"].items():
        codes_seen[code] = answer["description"]
    return "\n".join(
        [
            "# HTTP\n",
            _GENERATED,
            "## The gateway\n",
            f"{api['info']['description']}\n",
            "The same as a document for machines: `GET /openapi.json`. A write key is looked for in this order:",
            "`Authorization: Basic` (the key as user name, no password), the header `X-Write-Key`, the query",
            "parameter `writeKey`, the field `writeKey` of the body.\n",
            "| request | | answers |",
            "|---|---|---|",
            *routes,
            "",
            "Two more, for people and crawlers: `GET /` answers like `/health`, and `GET /robots.txt`.\n",
            "What the answers to events mean:\n",
            "| status | |",
            "|---|---|",
            *(f"| {code} | {_cell(words)} |" for code, words in codes_seen.items()),
            "",
            "A success is `200` with `success` and `ok`; of a batch in which some events were refused it also has",
            "`accepted` and `rejected`, a list of `index`, `code` and `message`. An error has `code` and `message`.",
            "429 and 503 carry `Retry-After` in whole seconds.\n",
            "```json",
            '{"success": true, "ok": true, "accepted": 1, "rejected": [',
            '  {"index": 1, "code": "missing_ids", "message": "request neither has anonymousId nor userId"}]}',
            "```\n",
            "## Operations\n",
            "On `ops_host`:`ops_port` (127.0.0.1:8081). They have no login: keep them private.\n",
            "| request | |",
            "|---|---|",
            *(f"| `{route}` | {_cell(words)} |" for route, words in operations_routes().items()),
            "",
        ]
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    write_reference(Path("docs/reference"))
