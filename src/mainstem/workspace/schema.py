"""The workspace document described from its structs: JSON Schema for editors, and the reference page.

`python -m mainstem.workspace.schema` writes `docs/reference/workspace.schema.json` and `workspace.md` again;
a test fails while they differ from the code.
"""

import ast
import inspect
import textwrap
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect as types

from mainstem.workspace.document import (
    ConnectionDocument,
    DestinationDocument,
    LibraryDocument,
    SourceDocument,
    TransformationDocument,
    WorkspaceDocument,
    WorkspaceNames,
)
from mainstem.workspace.model import ConsentRule, DeliveryPolicy, Filter, TransformationLimits, WebhookMapping

_SECTIONS: Final[tuple[tuple[str, type[msgspec.Struct]], ...]] = (
    ("The document", WorkspaceDocument),
    ("workspace", WorkspaceNames),
    ("sources", SourceDocument),
    ("sources: webhook", WebhookMapping),
    ("destinations", DestinationDocument),
    ("destinations: consent", ConsentRule),
    ("destinations: delivery", DeliveryPolicy),
    ("connections", ConnectionDocument),
    ("connections: filters", Filter),
    ("transformations", TransformationDocument),
    ("transformations: limits", TransformationLimits),
    ("libraries", LibraryDocument),
)

_INTRODUCTION: Final = """\
# The workspace document

<!-- Made from the code by `python -m mainstem.workspace.schema`. -->

One document says where events come from, where they go, and by which rules. It is a YAML 1.2 file (or the
same shape as JSON, which is what a control plane serves). Saved changes are picked up within two seconds; a
broken document is refused with every mistake, each with its path and line, and the previous one stays in use.
`mainstem workspace check FILE` tells the same without applying anything; with `--fix` it also lays the file
out anew, comments kept. Editors: `workspace.schema.json` beside this page is its JSON Schema. An example:
`examples/workspace.yaml`.

**Secrets.** `${NAME}` is replaced from the environment of the process, `${NAME:-default}` if the variable is
unset or empty; `$${` is a plain `${`. Without a default an unset variable is an error that names it. What
comes from the environment never shows in messages, logs or `explain`. In documents of a control plane only
variables whose name begins with `MAINSTEM_SECRET_` can be referred to.

**Last good copy.** The last good document is kept in `<data_dir>/workspace/` (mode 0600, references
unresolved, not encrypted). If the place can't be read at start, or holds a broken document, Mainstem starts
from that copy and says so loudly. Without a copy it does not start.

**Transformations.** `transformations` says what changes events, and connections, destinations and sources refer
to it: `name` is the latest version, `name@3` that one. The snapshot holds exact versions, with their code. A
published version (`folder`) is proved by the hash it was published with: one that was edited is refused. Files
that the document refers to lie in its folder; they are watched as it is, and kept in the last good copy. See
[transform events](../how-to/transform-events.md).

**RudderStack.** A `workspaceConfig.json` works unchanged in place of this document. Destinations of a type that
there is not, with settings the type refuses, or with a transformation whose code can't be had are switched off with
a warning: their events wait. The code is looked for in `transformations/VERSION_ID.json` and
`transformations/libraries/VERSION_ID.json` beside the document, each the control plane's answer as it is; or the
control plane that serves the document is asked for it. `eventFilteringOption` holds for everything that goes to
the destination.

**Control plane.** An `http://` or `https://` location is asked with `GET`, `Authorization: Basic` (the
workspace token as user name), `If-None-Match` and `Prefer: wait=30`; it answers 200 with a document and an
`ETag`, or 304.
"""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the YAML document."""
    (reference,), components = msgspec.json.schema_components(
        [WorkspaceDocument], ref_template="#/$defs/{name}"
    )
    for _, kind in _SECTIONS:
        component = components[kind.__name__]
        component["additionalProperties"] = False
        component["description"] = _first_paragraph(kind)
        documented = field_docs(kind)
        for field in msgspec.structs.fields(kind):
            described = component["properties"][field.encode_name]
            component["properties"][field.encode_name] = _with_references(described) | {
                "description": documented[field.name]
            }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Mainstem workspace",
        **reference,
        "$defs": components,
    }


def _with_references(described: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field, which may be `${NAME}` where it wants a number or true/false."""
    if described.get("type") in ("integer", "number", "boolean"):
        default = {"default": described.pop("default")} if "default" in described else {}
        return {"anyOf": [described, {"type": "string", "pattern": r"^\$\{.*\}$"}], **default}
    return dict(described)


def reference_page() -> str:
    """Return the reference page."""
    parts = [_INTRODUCTION]
    for title, kind in _SECTIONS:
        parts.append(f"## {title}\n\n{_first_paragraph(kind)}\n")
        rows = ["| field | form | default | |", "|---|---|---|---|"]
        documented = field_docs(kind)
        info = types.type_info(kind)
        assert isinstance(info, types.StructType)  # noqa: S101 - the table above holds structs only
        for field in info.fields:
            default = "required" if field.required else _default(field)
            text = " ".join(documented[field.name].split()).replace("|", "\\|")
            rows.append(f"| `{field.encode_name}` | {_form(field.type)} | {default} | {text} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def write_reference(directory: Path) -> None:
    """Write both files into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in reference_files().items():
        (directory / name).write_text(text, encoding="utf-8")


def reference_files() -> dict[str, str]:
    """Return the content of both files by name."""
    schema = msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode()
    return {"workspace.md": reference_page(), "workspace.schema.json": schema + "\n"}


@lru_cache(maxsize=64)
def field_docs(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Return the text written under each field; empty where there is none."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)  # noqa: S101 - the source of a class is a class
    docs = {field.name: "" for field in msgspec.structs.fields(kind)}
    for node, following in pairwise(tree.body):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            docs[node.target.id] = inspect.cleandoc(str(following.value.value))
    return docs


def _first_paragraph(kind: type[msgspec.Struct]) -> str:
    return " ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].split())


def _default(field: types.Field) -> str:
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory
    match value:
        case "" | () | None:
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float() | str():
            return f"`{value}`"
        case _:
            return ""


def _form(kind: types.Type) -> str:
    match kind:
        case types.Metadata():
            return _form(kind.type)
        case types.StrType():
            return "id" if kind.pattern else "text"
        case types.BoolType():
            return "true or false"
        case types.IntType() | types.FloatType():
            words = "whole number" if isinstance(kind, types.IntType) else "number"
            bounds = ((">", kind.gt), ("≥", kind.ge), ("<", kind.lt), ("≤", kind.le))
            return ", ".join([words, *(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)])
        case types.LiteralType():
            return " / ".join(f"`{value}`" for value in kind.values)
        case types.VarTupleType():
            return f"list of {_form(kind.item_type)}"
        case types.UnionType():
            return " or ".join(
                _form(option) for option in kind.types if not isinstance(option, types.NoneType)
            )
        case types.StructType():
            return "mapping, see below"
        case _:
            return "mapping"


if __name__ == "__main__":
    write_reference(Path("docs/reference"))
