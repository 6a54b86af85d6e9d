"""The reference page of a destination type, written from its module: docstring, settings, an example.

What is said to users stands beside the code that does it; nothing here is written twice.
"""

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any, Final

import msgspec

from mainstem.destinations.base import DestinationSpec
from mainstem.secret import Secret

_GENERATED: Final = (
    "<!-- Generated from the destination's module. Change that, then write the pages again. -->"
)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as a user sees it."""

    name: str
    required: bool
    default: str
    secret: bool
    text: str
    """What the field's docstring says; empty if it has none."""


@cache
def settings_of(config: type[msgspec.Struct]) -> tuple[Setting, ...]:
    """Return the settings of a type, in the order in which its struct has them."""
    texts = _field_texts(config)
    listed: frozenset[str] = getattr(config, "SECRET_FIELDS", frozenset())
    needed: frozenset[str] = getattr(config, "NEEDED_TO_SEND", frozenset())
    return tuple(
        Setting(
            name=field.encode_name,
            required=field.required or field.encode_name in needed,
            default="" if field.required else _default(field),
            secret=field.type is Secret
            or any(name.partition(".")[0] == field.encode_name for name in listed),
            text=texts.get(field.name, ""),
        )
        for field in msgspec.structs.fields(config)
    )


def page(spec: DestinationSpec, example: Mapping[str, Any] | None = None) -> str:
    """Return the page of a type as Markdown.

    Args:
        spec: the type.
        example: `config`, `message` and `payloads`, as in `tests/golden/`.
    """
    module = sys.modules[spec.config.__module__]
    heading, _, rest = (inspect.getdoc(module) or "").partition("\n")
    lines = [f"# {spec.title}", "", _GENERATED, "", heading, "", rest.strip(), ""]
    lines += [f"- Type: `{spec.name}`", f"- Events: {', '.join(sorted(spec.message_types))}"]
    lines += [f"- See also: {spec.doc_url}", "", "## Settings", ""]
    for setting in settings_of(spec.config):
        facts = ["required" if setting.required else f"default {setting.default}"]
        facts += ["secret"] if setting.secret else []
        lines += [f"- `{setting.name}` ({', '.join(facts)})" + (f": {setting.text}" if setting.text else "")]
    if example is not None:
        lines += ["", "## Example", "", "Settings:", "", *_json(example["config"])]
        lines += ["", "Event:", "", *_json(example["message"])]
        lines += ["", "Sent:", "", *_json(example["payloads"])]
    return "\n".join(lines).rstrip() + "\n"


def _json(value: Any) -> list[str]:
    return ["```json", json.dumps(value, indent=2, ensure_ascii=False), "```"]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is msgspec.NODEFAULT or field.default is msgspec.UNSET:
        return "none"
    if isinstance(field.default, Secret) or field.default in ("", ()):
        return "empty"
    return f"`{json.dumps(msgspec.to_builtins(field.default))}`"


def _field_texts(config: type[msgspec.Struct]) -> dict[str, str]:
    """Return each field's docstring: the text that stands below it in the class."""
    [found] = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    texts: dict[str, str] = {}
    body = found.body if isinstance(found, ast.ClassDef) else []
    for statement, following in pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            texts[statement.target.id] = " ".join(following.value.value.split())
    return texts
