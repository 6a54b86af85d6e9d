"""What the workspace tests share: checks like the real ones, and documents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cel
import msgspec

from mainstem.secret import Secret
from mainstem.workspace.beside import NOTHING_BESIDE, Beside
from mainstem.workspace.checks import Checks, ConfigCheck, ReadyCheck, revealed
from mainstem.workspace.errors import Problem, WorkspaceInvalid
from mainstem.workspace.report import Parsed
from mainstem.workspace.yaml_file import parse_yaml_workspace

ROOT = Path(__file__).parents[2]


class HookConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    webhook_url: str
    webhook_method: str = "POST"
    headers: tuple[dict[str, str], ...] = ()
    api_key: Secret = Secret("")


def _secret(kind: type, value: Any) -> Any:
    return Secret(value)


def check_config(type_name: str, raw: Mapping[str, Any]) -> ConfigCheck:
    if type_name == "ARCHIVE":
        return ConfigCheck(config=msgspec.json.encode(revealed(raw)))
    if type_name != "WEBHOOK":
        return ConfigCheck(known=False, names=("ARCHIVE", "WEBHOOK"))
    plain = revealed(raw)
    if "://" not in str(plain.get("webhookUrl", "://")):
        # quotes the value, as a careless validator may
        problem = Problem("webhookUrl", f"{plain['webhookUrl']} is no URL")
        return ConfigCheck(problems=(problem,), secret_fields=frozenset(("apiKey",)))
    try:
        config = msgspec.convert(plain, HookConfig, dec_hook=_secret)
    except msgspec.ValidationError as error:
        return ConfigCheck(problems=(Problem("", str(error)),))
    unknown = plain.keys() - {"webhookUrl", "webhookMethod", "headers", "apiKey"}
    warnings = tuple(Problem(name, "no such setting", "warning") for name in sorted(unknown))
    return ConfigCheck(config=config, problems=warnings, secret_fields=frozenset(("apiKey",)))


def check_expression(text: str) -> str | None:
    try:
        cel.compile(text)
    except ValueError:
        return "is not a CEL expression"
    return None


class MaskConfig(msgspec.Struct, frozen=True, kw_only=True):
    keys: tuple[str, ...] = ()
    salt: Secret = Secret("")


def check_ready(name: str, raw: Mapping[str, Any]) -> ReadyCheck:
    if name not in ("mask", "sample"):
        return ReadyCheck(known=False, names=("mask", "sample"))
    unknown = raw.keys() - {"keys", "salt"}
    if unknown:
        problems = tuple(
            Problem(key, f"no such setting; salt is {raw.get('salt')}") for key in sorted(unknown)
        )
        return ReadyCheck(problems=problems, secret_fields=frozenset(("salt",)))
    config = msgspec.convert(revealed(raw), MaskConfig, dec_hook=_secret)
    return ReadyCheck(config=config, secret_fields=frozenset(("salt",)), edge=name == "mask")


CHECKS = Checks(check_config, check_expression, check_ready)


def parse(text: str, beside: Beside = NOTHING_BESIDE, /, **env: str) -> Parsed:
    return parse_yaml_workspace(text, origin="w.yaml", env=env, checks=CHECKS, beside=beside)


def problems(text: str, beside: Beside = NOTHING_BESIDE, /, **env: str) -> list[str]:
    try:
        parsed = parse(text, beside, **env)
    except WorkspaceInvalid as error:
        return [str(problem) for problem in error.problems]
    return [str(problem) for problem in parsed.warnings]


def document(name: str = "acme") -> str:
    return (
        f"workspace: {{id: {name}}}\n"
        "sources: [{id: web, write_key: web-key}]\n"
        "destinations: [{id: hook, type: webhook, config: {webhookUrl: 'https://x.example/h'}}]\n"
        "connections: [{from: web, to: hook}]\n"
    )
