"""Our own workspace document: YAML (a file, usually in git) or the same shape as JSON (the control plane).

text -> tree -> `${NAME}` from the environment -> `document.WorkspaceDocument` -> **Workspace**. Everything
wrong is told at once, each with its path and line. `docs/reference/workspace.md` describes the fields.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mainstem.workspace.beside import NOTHING_BESIDE, Beside
from mainstem.workspace.checks import Checks, revealed
from mainstem.workspace.content import snapshot_version
from mainstem.workspace.decode import Decoded, decode
from mainstem.workspace.document import (
    ConnectionDocument,
    DestinationDocument,
    LibraryDocument,
    SourceDocument,
    TransformationDocument,
    WorkspaceDocument,
)
from mainstem.workspace.errors import WorkspaceInvalid
from mainstem.workspace.model import Connection, Destination, Filter, Source, Transformation, Workspace
from mainstem.workspace.report import Parsed, Path, Report, nearest, path_of
from mainstem.workspace.settings_check import check_settings, with_secrets
from mainstem.workspace.transformations import Declared, Transformations, make_libraries
from mainstem.workspace.tree import parse_json, parse_yaml, resolve_references

T = TypeVar("T")

_WRITE_KEY: Final = re.compile(r"[!-~]{1,256}")
"""Printable ASCII without spaces: it travels in Authorization, headers and query strings."""


def parse_yaml_workspace(
    text: str, *, origin: str, env: Mapping[str, str], checks: Checks, beside: Beside = NOTHING_BESIDE
) -> Parsed:
    """Read the YAML document, and from `beside` the files it refers to.

    Raises:
        WorkspaceInvalid: with every problem found.
    """
    tree, report = parse_yaml(text, origin)
    return _workspace(tree.value, report, env, checks, beside)


def parse_json_workspace(
    text: str, *, origin: str, env: Mapping[str, str], checks: Checks, beside: Beside = NOTHING_BESIDE
) -> Parsed:
    """Read the same document as JSON; problems name paths, not lines.

    Raises:
        WorkspaceInvalid: with every problem found.
    """
    report = Report(origin)
    return _workspace(parse_json(text, report), report, env, checks, beside)


def format_document(text: str) -> str:
    """Return the YAML text in canonical layout (two spaces, lists indented below their key), comments kept.

    Raises:
        WorkspaceInvalid: it is not YAML, or has duplicate keys.
    """
    before, report = parse_yaml(text, "document")
    report.raise_if_failed()
    layout = YAML(typ="rt", pure=True)
    layout.preserve_quotes = True
    layout.width = 1_000_000  # never fold a long expression
    layout.indent(mapping=2, sequence=4, offset=2)
    written = io.StringIO()
    try:
        layout.dump(layout.load(text), written)
        formatted = re.sub(r"[ \t]+$", "", written.getvalue(), flags=re.MULTILINE)
        after, _ = parse_yaml(formatted, "document")
    except (YAMLError, WorkspaceInvalid, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return text
    # Layout must not change a value; where the round trip would, the text stays as it is.
    return formatted if after.value == before.value and before.value is not None else text


# ---------------------------------------------------------------- from values to the snapshot


def _workspace(value: Any, report: Report, env: Mapping[str, str], checks: Checks, beside: Beside) -> Parsed:
    if value is None:
        report.error((), "is empty; it needs at least `workspace: {id: …}`")
        report.raise_if_failed()
    resolved = resolve_references(value, env, report)
    builder = _Builder(report, checks, resolved, decode(WorkspaceDocument, resolved, report))
    builder.declare_transformations(beside, env)
    sources, destinations, connections = builder.sources(), builder.destinations(), builder.connections()
    transformations = builder.used_transformations()
    report.raise_if_failed()
    document = builder.document()
    return report.parsed(
        Workspace(
            id=document.workspace.id,
            name=document.workspace.name or document.workspace.id,
            version=snapshot_version(resolved, transformations),
            sources=sources,
            destinations=destinations,
            connections=connections,
            transformations=transformations,
            suppressed_user_ids=frozenset(document.suppressed_user_ids),
        )
    )


class _Builder:
    """Makes the model's objects of the document's, and checks what concerns more than one of them."""

    def __init__(self, report: Report, checks: Checks, resolved: Any, decoded: Decoded) -> None:
        self._report = report
        self._checks = checks
        self._resolved = resolved if isinstance(resolved, dict) else {}
        self._decoded = decoded
        self._transformations = Transformations(report, checks, NOTHING_BESIDE, {}, ())

    def declare_transformations(self, beside: Beside, env: Mapping[str, str]) -> None:
        """Read what there is to refer to; comes before everything that refers."""
        libraries = make_libraries(tuple(self._parts("libraries", LibraryDocument)), beside, self._report)
        self._transformations = Transformations(self._report, self._checks, beside, env, libraries)
        declared = [
            Declared(path, item) for path, item in self._parts("transformations", TransformationDocument)
        ]
        self._transformations.declare(declared, frozenset(self._ids("transformations", "name")))

    def used_transformations(self) -> tuple[Transformation, ...]:
        """Return what sources, destinations and connections refer to; comes after all of them."""
        return self._transformations.used()

    def document(self) -> WorkspaceDocument:
        """Return the whole document; there is one whenever nothing was reported."""
        return cast("WorkspaceDocument", self._decoded[()])

    def sources(self) -> tuple[Source, ...]:
        owners: dict[str, str] = {}
        made = []
        self._unique("sources")
        for path, item in self._parts("sources", SourceDocument):
            made.append(self._source(path, item, owners))
        return tuple(made)

    def destinations(self) -> tuple[Destination, ...]:
        self._unique("destinations")
        return tuple(
            self._destination(path, item) for path, item in self._parts("destinations", DestinationDocument)
        )

    def connections(self) -> tuple[Connection, ...]:
        sources, destinations = self._ids("sources"), self._ids("destinations")
        made: dict[tuple[str, str], Connection] = {}
        for path, item in self._parts("connections", ConnectionDocument):
            self._filters((*path, "filters"), item.filters)
            if item.source not in sources:
                hint = nearest(item.source, sources)
                self._report.error((*path, "from"), f"there is no source {item.source!r}{hint}")
            transformations = self._references((*path, "transformations"), item.transformations)
            for place, destination_id in _targets((*path, "to"), item.to):
                pair = (item.source, destination_id)
                if destination_id not in destinations:
                    hint = nearest(destination_id, destinations)
                    self._report.error(place, f"there is no destination {destination_id!r}{hint}")
                elif pair in made:
                    self._report.error(place, f"{item.source!r} is already connected to {destination_id!r}")
                made[pair] = Connection(
                    source_id=item.source,
                    destination_id=destination_id,
                    enabled=item.enabled,
                    filters=item.filters,
                    transformations=transformations,
                )
        return tuple(made.values())

    # ------------------------------------------------------------ one of each

    def _source(self, path: Path, item: SourceDocument, owners: dict[str, str]) -> Source:
        keys = ((item.write_key,) if item.write_key else ()) + item.write_keys
        given = self._items("sources")[cast("int", path[-1])]
        if not keys and not (given.get("write_key") or given.get("write_keys")):
            self._report.error(path, "has no write key; give `write_key` or `write_keys`")
        for key in keys:
            if _WRITE_KEY.fullmatch(key) is None:
                self._report.error(
                    path, "has a write key that is not 1 to 256 printable ASCII characters without spaces"
                )
            elif key in owners:
                self._report.error(path, f"has a write key that source {owners[key]!r} has already")
            owners.setdefault(key, item.id)
        return Source(
            id=item.id,
            name=item.name or item.id,
            write_keys=keys,
            type=item.type,
            enabled=item.enabled,
            origins=item.origins,
            webhook=item.webhook,
            geo_enrichment=item.geo_enrichment,
            user_agent_enrichment=item.user_agent_enrichment,
            bots=item.bots,
            edge=self._references((*path, "edge"), item.edge, edge=True),
        )

    def _destination(self, path: Path, item: DestinationDocument) -> Destination:
        type_name = item.type.upper()
        check = check_settings(self._checks.config, type_name, item.config, self._report)
        if not check.known:
            hint = nearest(type_name, check.names).lower()
            self._report.error((*path, "type"), f"there is no destination type {item.type!r}{hint}")
        for problem in check.problems:
            place = (*path, "config", *path_of(problem.path))
            tell = self._report.warning if problem.severity == "warning" else self._report.error
            tell(place, problem.message)
        if not _is_start(item.start):
            self._report.error(
                (*path, "start"), "expected latest, earliest, or an ISO 8601 time with its zone"
            )
        return Destination(
            id=item.id,
            name=item.name or item.id,
            type=type_name,
            display_name=item.display_name,
            enabled=item.enabled,
            config=check.config,
            raw_config=with_secrets(item.config, check.secret_fields),
            client_config=item.client_config,
            message_types=item.message_types,
            consent=item.consent,
            one_trust_categories=item.one_trust_categories,
            ketch_purposes=item.ketch_purposes,
            transformations=self._references((*path, "transformations"), item.transformations),
            delivery=item.delivery,
            start=item.start,
        )

    def _references(self, path: Path, names: Sequence[str], *, edge: bool = False) -> tuple[str, ...]:
        """Return the ids of the transformations that are named."""
        refer = self._transformations.refer_edge if edge else self._transformations.refer
        return tuple(filter(None, (refer((*path, index), name) for index, name in enumerate(names))))

    def _filters(self, path: Path, filters: Sequence[Filter]) -> None:
        names: set[str] = set()
        for index, item in enumerate(filters):
            if item.name in names:
                self._report.error((*path, index, "name"), f"there are two filters {item.name!r}")
            names.add(item.name)
            wrong = self._checks.expression(item.where) if item.where else None
            if wrong is not None:
                self._report.error((*path, index, "where"), wrong)

    # ------------------------------------------------------------ places

    def _items(self, section: str) -> list[Any]:
        items = self._resolved.get(section)
        return items if isinstance(items, list) else []

    def _parts(self, section: str, kind: type[T]) -> Iterator[tuple[Path, T]]:
        for index in range(len(self._items(section))):
            part = self._decoded.get((section, index))
            if isinstance(part, kind):
                yield (section, index), part

    def _ids(self, section: str, field: str = "id") -> dict[str, int]:
        """Return the ids a section declares, also of items with mistakes, and where each came first."""
        first: dict[str, int] = {}
        for index, item in enumerate(self._items(section)):
            given = revealed(item.get(field)) if isinstance(item, dict) else None
            if isinstance(given, str):
                first.setdefault(given, index)
        return first

    def _unique(self, section: str) -> None:
        first = self._ids(section)
        for index, item in enumerate(self._items(section)):
            given = revealed(item.get("id")) if isinstance(item, dict) else None
            if isinstance(given, str) and first[given] != index:
                self._report.error(
                    (section, index, "id"), f"{given[:128]!r} is already the id of {section}[{first[given]}]"
                )


def _targets(path: Path, to: str | tuple[str, ...]) -> list[tuple[Path, str]]:
    if isinstance(to, str):
        return [(path, to)]
    return [((*path, index), destination_id) for index, destination_id in enumerate(to)]


def _is_start(text: str) -> bool:
    if text in ("latest", "earliest"):
        return True
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
