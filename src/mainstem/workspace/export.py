"""A snapshot written as our workspace YAML: the way out of a RudderStack `workspaceConfig.json`.

snapshot -> **text**, which `yaml_file` reads back as the same sources, destinations, connections and
transformations (with their code in the text). Fields
that hold their default are left out. Values of secrets are never written: a `Secret` becomes `${NAME}`, and
the caller tells which variables to set. `docs/reference/workspace.md` describes the fields.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from mainstem.secret import Secret
from mainstem.workspace.document import is_id
from mainstem.workspace.errors import Problem, WorkspaceInvalid
from mainstem.workspace.model import CodeLibrary, Connection, Destination, Source, Transformation, Workspace
from mainstem.workspace.tree import number

_SCHEMA_LINE: Final = "# Every field: docs/reference/workspace.md\n"
_PLAIN: Final = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@+*-]*(?:[ :][A-Za-z0-9_./@+*-]+)*")
"""Text that needs no quotes, neither in a block nor between brackets. A colon is never before a space."""
_NOT_TEXT: Final = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))
"""Plain words that YAML 1.2, or an editor with YAML 1.1, takes for something else."""
_WIDEST_LIST: Final = 80
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def export_yaml(workspace: Workspace) -> tuple[str, dict[str, str]]:
    """Return the workspace document, and the environment variables it refers to with what each one is.

    A destination whose settings its type refuses, or of a type that there is not, would make the document
    invalid; it stands in comments with the reason, and so do its connections.

    Raises:
        WorkspaceInvalid: two transformations have libraries of one name that differ, which the document can't say.
    """
    names = _Variables()
    called = _Called(workspace.transformations)
    parts = [
        _SCHEMA_LINE,
        "\n".join(_lines({"workspace": _workspace_names(workspace)})) + "\n",
        _section("sources", (_item(_source(source, names, called)) for source in workspace.sources)),
        _section("destinations", (_destination_item(item, names, called) for item in workspace.destinations)),
        _section("connections", _connection_items(workspace, called)),
        _section(
            "transformations",
            (_item(_transformation(item, names, called)) for item in workspace.transformations),
        ),
        _section("libraries", (_item(item) for item in _libraries(workspace.transformations))),
    ]
    if workspace.suppressed_user_ids:
        parts.append("\n".join(_lines({"suppressed_user_ids": sorted(workspace.suppressed_user_ids)})) + "\n")
    return "\n".join(part for part in parts if part), names.needed


# ---------------------------------------------------------------- what is written of each


def _workspace_names(workspace: Workspace) -> dict[str, Any]:
    # RudderStack lets any text be the workspace's id; ours goes into metrics and paths.
    made = re.sub(r"[^A-Za-z0-9._-]+", "-", workspace.id).lstrip("._-")[:128]
    used = workspace.id if is_id(workspace.id) else made or "workspace"
    return {"id": used} | ({"name": workspace.name} if workspace.name not in ("", used) else {})


def _source(source: Source, names: "_Variables", called: "_Called") -> dict[str, Any]:
    fields = _changed(source)
    called.rename(fields, "edge")
    keys = fields.pop("write_keys", ())
    if fields["name"] == source.id:
        del fields["name"]
    if not keys:
        where = f"a write key for source {source.id}, which had none"
        keys = (_Reference(names.take(source.id, ("writeKey",), where)),)
    given = {"write_key": keys[0]} if len(keys) == 1 else {"write_keys": keys}
    return {"id": fields.pop("id")} | _first(fields, "name") | given | fields


def _destination_item(destination: Destination, names: "_Variables", called: "_Called") -> str:
    loadable = destination.config is not None
    fields = _changed(destination)
    called.rename(fields, "transformations")
    for name in ("config", "disabled_reason", "raw_config"):
        fields.pop(name, None)
    lowered = destination.type.lower()
    fields["type"] = lowered if lowered.upper() == destination.type else destination.type
    if fields["name"] == destination.id:
        del fields["name"]
    head = {"id": fields.pop("id")} | _first(fields, "name") | _first(fields, "type")
    head |= _first(fields, "display_name") | _first(fields, "enabled")
    settings = _with_references(destination, names if loadable else _Variables())
    text = _item(head | ({"config": settings} if settings else {}) | fields)
    if loadable:
        return _comment(f"Off: {destination.disabled_reason}" if destination.disabled_reason else "") + text
    reason = destination.disabled_reason or "its settings are not accepted, or there is no such type"
    return _comment(f"Left out: {reason}") + _commented(text)


def _connection_items(workspace: Workspace, called: "_Called") -> Iterator[str]:
    """Connections of one source with the same rules are one item."""
    left_out = {item.id for item in workspace.destinations if item.config is None}
    grouped: dict[tuple[str, bool, Any, Any, bool], list[str]] = {}
    for connection in workspace.connections:
        known = connection.destination_id not in left_out
        grouped.setdefault(_rules(connection, known), []).append(connection.destination_id)
    for (source_id, enabled, filters, transformations, known), targets in grouped.items():
        fields: dict[str, Any] = {"from": source_id, "to": targets[0] if len(targets) == 1 else targets}
        if not enabled:
            fields["enabled"] = False
        if filters:
            fields["filters"] = [_changed(item) for item in filters]
        if transformations:
            fields["transformations"] = transformations
            called.rename(fields, "transformations")
        text = _item(fields)
        yield text if known else _commented(text)


def _rules(connection: Connection, known: bool) -> tuple[str, bool, Any, Any, bool]:
    return connection.source_id, connection.enabled, connection.filters, connection.transformations, known


class _Called:
    """What transformations are called in the document: RudderStack lets a name be any text."""

    def __init__(self, transformations: Iterable[Transformation]) -> None:
        self._names = {item.id: _slug(item.name, item.id.partition("@")[0]) for item in transformations}
        self._versions = {item.id: item.version for item in transformations}

    def name(self, transformation: Transformation) -> str:
        return self._names[transformation.id]

    def rename(self, fields: dict[str, Any], field: str) -> None:
        """Put references in place of the ids in a field, if it is there."""
        if field in fields:
            fields[field] = [self._reference(found) for found in fields[field]]

    def _reference(self, transformation_id: str) -> str:
        name = self._names[transformation_id]
        alone = list(self._names.values()).count(name) == 1
        return name if alone else f"{name}@{self._versions[transformation_id]}"


def _slug(text: str, otherwise: str) -> str:
    made = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:128]
    return made if is_id(made) else otherwise


def _transformation(item: Transformation, names: "_Variables", called: _Called) -> dict[str, Any]:
    name = called.name(item)
    fields = _changed(item)
    for field in ("id", "name", "kind", "libraries"):
        fields.pop(field, None)
    head = {"name": name, "version": fields.pop("version")}
    if item.kind == "ready":
        head |= {"ready": fields.pop("ready")}
    else:
        head |= {"language": item.kind} | _first(fields, "code_version")
    for field in ("settings", "credentials"):
        if fields.get(field):
            where = f"transformation {name}"
            fields[field] = _referring(fields[field], names, (name, field), f"{field} of {where}")
        else:
            fields.pop(field, None)
    code = {"code": fields.pop("code")} if item.kind != "ready" else {}
    return {**head, **fields, **code}


def _libraries(transformations: Iterable[Transformation]) -> Iterator[dict[str, Any]]:
    made: dict[tuple[str, str], CodeLibrary] = {}
    for library in (library for item in transformations for library in item.libraries):
        same = made.setdefault((library.name, library.language), library)
        if same.code != library.code:
            problem = Problem(
                f"library {library.name}", "has two contents, and a document can have one of them"
            )
            raise WorkspaceInvalid("the workspace", [problem])
        if same is library:
            yield {"name": library.name, "language": library.language, "code": library.code}


def _changed(value: msgspec.Struct) -> dict[str, Any]:
    """Return the fields that differ from their defaults, structs inside as mappings."""
    changed = {}
    for field in msgspec.structs.fields(value):
        found = getattr(value, field.name)
        # A required field's default is NODEFAULT, which equals nothing.
        default = field.default_factory() if callable(field.default_factory) else field.default
        if found != default:
            changed[field.encode_name] = _plain(found)
    return changed


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _changed(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _first(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {name: fields.pop(name)} if name in fields else {}


# ---------------------------------------------------------------- secrets


class _Reference(msgspec.Struct, frozen=True):
    """A place whose value comes from the environment."""

    name: str
    default: str = ""

    def __str__(self) -> str:
        return f"${{{self.name}{self.default}}}"


class _Variables:
    """Names for environment variables, each given once."""

    def __init__(self) -> None:
        self.needed: dict[str, str] = {}
        self._taken: set[str] = set()

    def take(self, owner: str, path: tuple[str | int, ...], where: str) -> str:
        """Return a new name; with `where`, it is one that must be set."""
        words = [re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(part)) for part in path]
        wanted = re.sub(r"[^A-Z0-9]+", "_", "_".join((owner, *words)).upper()).strip("_")
        # No variable begins with a digit; MAINSTEM_ ones are settings.
        if not wanted[:1].isalpha() or wanted.startswith("MAINSTEM_"):
            wanted = f"DESTINATION_{wanted}"
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        if where:
            self.needed[name] = where
        return name


def _with_references(destination: Destination, names: _Variables) -> Any:
    return _referring(
        destination.raw_config, names, (destination.id,), f"config of destination {destination.id}"
    )


def _referring(value: Any, names: _Variables, owner: tuple[str, ...], what: str) -> Any:
    """Return the settings with a reference in place of each secret; `what` becomes `config.a[0] of destination d`."""

    def walk(value: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, Secret):
            place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
            first, _, rest = what.partition(" ")
            where = f"{first}{place} {rest}" if value else ""
            # An empty secret stays empty: no variable has to be set for it.
            return _Reference(names.take(owner[0], (*owner[1:], *path), where), "" if value else ":-")
        if isinstance(value, Mapping):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [walk(item, (*path, index)) for index, item in enumerate(value)]
        return value

    return walk(value, ())


# ---------------------------------------------------------------- YAML


def _section(name: str, items: Iterable[str]) -> str:
    """Return a list of top-level things, a blank line between them; nothing if there are none."""
    texts = list(items)
    if not texts:
        return ""
    # With every item in comments, YAML needs to be told that the list is empty.
    head = f"{name}:" if any(not _is_comment(text) for text in texts) else f"{name}: []"
    return f"{head}\n" + "\n".join(texts)


def _is_comment(text: str) -> bool:
    return all(line.lstrip().startswith("#") for line in text.splitlines())


def _item(fields: Mapping[str, Any]) -> str:
    lines = [f"    {line}" for line in _lines(fields)]
    return "\n".join(["  - " + lines[0][4:], *lines[1:]]) + "\n"


def _comment(text: str) -> str:
    one_line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return f"  # {one_line}\n" if one_line else ""


def _commented(text: str) -> str:
    return "".join(f"  # {line[2:]}\n" for line in text.splitlines())


def _lines(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        key = _text(name, escape=False)
        if name == "code":
            yield from _code(value)
        elif isinstance(value, Mapping) and value:
            yield f"{key}:"
            yield from (f"  {line}" for line in _lines(value))
        elif isinstance(value, list | tuple) and value:
            flow = _flow(value)
            if flow is not None and len(key) + len(flow) < _WIDEST_LIST:
                yield f"{key}: {flow}"
            else:
                yield f"{key}:"
                yield from (f"  {line}" for line in _list(value))
        else:
            yield f"{key}: {_scalar(value)}"


def _code(text: str) -> Iterator[str]:
    """Return the lines of code as it was written; what no block of YAML can hold becomes an escaped text."""
    ends = len(text) - len(text.rstrip("\n"))
    # More than one line break at the end would run into the blank lines between items.
    if not text.strip() or ends > 1 or any(not char.isprintable() and char not in "\n\t" for char in text):
        yield f"code: {_text(text, escape=False)}"
        return
    # Code may begin with spaces, so the indentation is said.
    yield "code: |2" + ("" if ends else "-")
    yield from (f"  {line}" for line in text.removesuffix("\n").split("\n"))


def _list(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        inner: list[str] = []
        if isinstance(value, Mapping) and value:
            inner = list(_lines(value))
        elif isinstance(value, list | tuple) and value:
            inner = list(_list(value))
        else:
            inner = [_scalar(value)]
        yield f"- {inner[0]}"
        yield from (f"  {line}" for line in inner[1:])


def _flow(values: Iterable[Any]) -> str | None:
    """Return `[a, b]` for a list of simple things, None for others."""
    texts = []
    for value in values:
        if isinstance(value, _Reference | Mapping | list | tuple):
            return None
        texts.append(_scalar(value))
    return f"[{', '.join(texts)}]"


def _scalar(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            # Beyond 64 bits no number is read; as text the settings still take it.
            return str(value) if number(str(value)) is not None else f'"{value}"'
        case float():
            return repr(value)
        case _Reference():
            return str(value)
        case str():
            return _text(value, escape=True)
        case Mapping():
            return "{}"
        case _:
            return "[]"


def _text(text: str, *, escape: bool) -> str:
    """Return a text as YAML; with `escape`, `${` in it stays a plain `${`."""
    if escape:
        text = text.replace("${", "$${")
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT:
        return text
    if '"' in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
