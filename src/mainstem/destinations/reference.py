"""The reference page of a destination type, written from its module: docstring, settings, an example.

What is said to users stands beside the code that does it; nothing here is written twice.
"""

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Final

import msgspec

from mainstem.destinations.base import DestinationSpec
from mainstem.secret import Secret

_GENERATED: Final = (
    "<!-- Generated from the destination's module. Change that, then write the pages again. -->"
)


_PROOFS: Final = {
    "status": "none but the HTTP status: a delivery is unverifiable",
    "body": "the answer's body says whether the event was taken",
    "each event": "the answer says of each event whether it was taken",
    "validation": "the vendor answers success to anything; its validation endpoint tells more",
}


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
    lines += _facts(spec)
    lines += [f"- See also: {spec.doc_url}", "", "## Settings", ""]
    for setting in settings_of(spec.config):
        facts = ["required" if setting.required else f"default {setting.default}"]
        facts += ["secret"] if setting.secret else []
        lines += [f"- `{setting.name}` ({', '.join(facts)})" + (f": {setting.text}" if setting.text else "")]
    for table in spec.tables:
        lines += ["", f"## {table.title}", "", "| Field | From, in order of preference | |", "|---|---|---|"]
        lines += [
            f"| `{target}` | {', '.join(f'`{source}`' for source in sources)} | {_cell(told)} |"
            for target, sources, told in table.rows
        ]
    if example is not None:
        lines += ["", "## Example", "", "Settings:", "", *_json(example["config"])]
        lines += ["", "Event:", "", *_json(example["message"])]
        for member, words in (("payloads", "Sent:"), ("refusal", "Refused:"), ("skip", "Filtered:")):
            if member in example:
                lines += ["", words, "", *_json(example[member])]
    return "\n".join(lines).rstrip() + "\n"


def index_page(specs: Sequence[DestinationSpec]) -> str:
    """Return the page that lists every type, as Markdown."""
    lines = ["# Destinations", "", _GENERATED, ""]
    lines += [
        "What events can be sent to. [Add your own](../../how-to/add-a-destination.md). The same list, on the"
    ]
    lines += ["command line: `mainstem destination list`.", ""]
    lines += ["| Type | | Takes | Batches | Proof of acceptance |", "|---|---|---|---|---|"]
    for spec in specs:
        batches = f"up to {spec.default_max_batch}" if spec.batcher is not None else ""
        proof = spec.proof if spec.kind == "http" else "acknowledged"
        name = spec.name.lower()
        types = ", ".join(sorted(spec.message_types))
        lines.append(f"| [`{name}`]({name}.md) | {spec.title} | {types} | {batches} | {proof} |")
    lines += [
        "",
        "Proof of acceptance: what a success says of an event. *status*: that the request arrived, no more.",
    ]
    lines += [
        "*body*, *each event*: that the vendor took it. *validation*: the vendor says success to anything; its"
    ]
    lines += ["validation endpoint, which `mainstem destination verify` asks, tells more."]
    return "\n".join(lines) + "\n"


def _facts(spec: DestinationSpec) -> list[str]:
    """Return what delivery goes by."""
    facts = [f"- Limits: {spec.limits}"] if spec.limits else []
    if spec.batcher is not None:
        facts.append(f"- Batches: up to {spec.default_max_batch} events an attempt")
    if spec.oauth is not None:
        facts.append(
            "- Auth: OAuth; `oauth` in its settings holds `clientId`, `clientSecret` and `refreshToken`"
        )
    if spec.kind == "http":
        facts.append(f"- Proof of acceptance: {_PROOFS[spec.proof]}")
    if spec.validation is not None:
        facts.append("- `mainstem destination verify` asks the vendor's validation first")
    if spec.schemas:
        pages = sorted({one.doc_url for one in spec.schemas})
        facts.append(f"- `validate_requests` checks requests against {', '.join(pages)}")
    return facts


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _json(value: Any) -> list[str]:
    return ["```json", json.dumps(value, indent=2, ensure_ascii=False), "```"]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is msgspec.NODEFAULT or field.default is msgspec.UNSET:
        return "none"
    if isinstance(field.default, Secret) or field.default in ("", ()):
        return "empty"
    return f"`{json.dumps(msgspec.to_builtins(field.default))}`"


def _field_texts(config: type[msgspec.Struct]) -> dict[str, str]:
    """Return each field's docstring: the text that stands below it in the class, or in the one it is inherited from."""
    texts: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            texts |= _own_texts(base)
    return texts


def _own_texts(config: type[msgspec.Struct]) -> dict[str, str]:
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
