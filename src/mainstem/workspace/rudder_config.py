"""An existing RudderStack `workspaceConfig.json`, unchanged, as a snapshot.

The document is what a RudderStack data plane fetches from `/workspaceConfig` or reads from its file: sources
with their destinations nested in them (https://www.rudderstack.com/docs/, control plane set-up). Keys of its
objects are matched without regard to case, as the Go decoder there does; keys inside a `config` exactly.
An absent `enabled` or `isProcessorEnabled` is false there, so it is here.

What changes in the move, each with a warning:

* A destination of a type that there is not, or whose settings the type refuses, or whose transformation's code
  can't be had (`rudder_code.py`) is kept but switched off: its events wait in the stream for it. Sending them
  untransformed (unmasked, unfiltered) could not be undone; waiting can.
* Of several transformations of a destination the first is run, as there.
* Event filtering (`whitelistedEvents`, `blacklistedEvents`), there a matter of device mode, holds for
  everything that goes to the destination.
* Tracking plans are not enforced yet.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, get_args

import msgspec

from mainstem.secret import Secret
from mainstem.workspace.beside import NOTHING_BESIDE, Beside
from mainstem.workspace.checks import Checks, ConfigCheck
from mainstem.workspace.content import snapshot_version
from mainstem.workspace.document import MessageType, is_id
from mainstem.workspace.model import (
    Connection,
    ConsentRule,
    Destination,
    Filter,
    Source,
    Transformation,
    Workspace,
)
from mainstem.workspace.report import Parsed, Path, Report, written
from mainstem.workspace.rudder_code import CodeMissing, RudderCode
from mainstem.workspace.settings_check import check_settings, with_secrets
from mainstem.workspace.tree import parse_json

_MESSAGE_TYPES: Final = frozenset(get_args(MessageType))
_SECRET_WORDS: Final = ("password", "secret", "token", "apikey", "accesskey", "privatekey", "credential")
"""Without `secretKeys`, settings whose name holds one of these are taken for secrets."""


def is_rudder_config(value: Any) -> bool:
    """Whether a JSON value is RudderStack's document and not ours, which has `workspace`."""
    return isinstance(value, dict) and "workspace" not in value


def parse_rudder_config(text: str, *, origin: str, checks: Checks, beside: Beside = NOTHING_BESIDE) -> Parsed:
    """Read the document, and from `beside` the code that it names.

    Raises:
        WorkspaceInvalid: it is not such a document, or nothing sensible can be made of it.
    """
    report = Report(origin)
    value = parse_json(text, report)
    return _Importer(report, checks, beside).workspace(value)


class _Object:
    """One of their objects: fields by name without regard to case, each of the expected form."""

    def __init__(self, value: Mapping[str, Any], path: Path, report: Report) -> None:
        self.value = value
        self._folded = {key.casefold(): key for key in value}
        self._report = report
        self.path = path

    def raw(self, name: str) -> Any:
        key = name if name in self.value else self._folded.get(name.casefold())
        return None if key is None else self.value[key]

    def has(self, name: str) -> bool:
        return self.raw(name) is not None

    def text(self, name: str) -> str:
        found = self.raw(name)
        if found is None or isinstance(found, str):
            return found or ""
        self._report.error((*self.path, name), "expected text")
        return ""

    def truth(self, name: str) -> bool:
        found = self.raw(name)
        if found is None or isinstance(found, bool):
            return bool(found)
        self._report.error((*self.path, name), "expected true or false")
        return False

    def mapping(self, name: str) -> dict[str, Any]:
        found = self.raw(name)
        if found is None or isinstance(found, dict):
            return found or {}
        self._report.error((*self.path, name), "expected an object")
        return {}

    def child(self, name: str) -> "_Object":
        return _Object(self.mapping(name), (*self.path, name), self._report)

    def children(self, name: str) -> "Iterator[_Object]":
        found = self.raw(name)
        if found is None:
            return
        if not isinstance(found, list):
            self._report.error((*self.path, name), "expected a list")
            return
        for index, item in enumerate(found):
            path = (*self.path, name, index)
            if isinstance(item, dict):
                yield _Object(item, path, self._report)
            else:
                self._report.error(path, "expected an object")


class _Copy(msgspec.Struct, frozen=True):
    """A destination as it stands under one source; the same one stands under every source it serves."""

    source: Source
    fields: _Object


class _Importer:
    def __init__(self, report: Report, checks: Checks, beside: Beside) -> None:
        self._report = report
        self._checks = checks
        self._beside = beside
        self._code = RudderCode(beside, (), {})
        self._transformations: dict[str, Transformation] = {}

    def workspace(self, value: Any) -> Parsed:
        whole = self._only_workspace(value)
        sources: dict[str, Source] = {}
        copies: dict[str, list[_Copy]] = {}
        owners: dict[str, str] = {}
        for item in whole.children("sources"):
            if item.truth("deleted"):
                continue
            source = self._source(item, owners)
            if source.id in sources:
                self._report.error((*item.path, "id"), f"there are two sources {source.id!r}")
            sources[source.id] = source
            for nested in item.children("destinations"):
                if self._id(nested) and not nested.truth("deleted"):
                    copies.setdefault(nested.text("id"), []).append(_Copy(source, nested))
        libraries = [item.text("versionId") for item in whole.children("libraries")]
        self._code = RudderCode(self._beside, libraries, self._credentials(whole))
        destinations = tuple(self._destination(same) for same in copies.values())
        blocked = self._blocked(whole)
        connections = tuple(
            self._connection(copy, destination, blocked)
            for destination, same in zip(destinations, copies.values(), strict=True)
            for copy in same
        )
        self._unsupported(whole)
        self._report.raise_if_failed()
        transformations = tuple(self._transformations.values())
        return self._report.parsed(
            Workspace(
                id=whole.text("workspaceId") or "workspace",
                name=whole.text("name"),
                version=snapshot_version(value, transformations),
                sources=tuple(sources.values()),
                destinations=destinations,
                connections=connections,
                transformations=transformations,
            )
        )

    def _only_workspace(self, value: Any) -> _Object:
        if not isinstance(value, dict):
            self._report.error((), "expected an object with `sources`")
            self._report.raise_if_failed()
        whole = _Object(value, (), self._report)
        if whole.has("sources"):
            return whole
        # The multi-tenant form: {workspace id: document, or null for "unchanged"}.
        inner = {key: item for key, item in value.items() if isinstance(item, dict)}
        if len(inner) != 1 or any(item is not None for key, item in value.items() if key not in inner):
            self._report.error((), "expected an object with `sources`, or one workspace by its id")
            self._report.raise_if_failed()
        key, item = next(iter(inner.items()))
        found = _Object(item, (key,), self._report)
        if not found.has("sources"):
            self._report.error((key, "sources"), "is missing")
        return found

    def _unsupported(self, whole: _Object) -> None:
        for name, advice in (
            ("eventReplays", "are not taken over; use `mainstem replay`"),
            ("connections", "of warehouse sources are not taken over"),
        ):
            if whole.mapping(name):
                self._report.warning((*whole.path, name), advice)

    # ------------------------------------------------------------ sources

    def _source(self, item: _Object, owners: dict[str, str]) -> Source:
        source_id = self._id(item)
        key = item.text("writeKey")
        if not key:
            self._report.warning(item.path, "has no write key, so nothing can be sent to it")
        elif key in owners:
            self._report.error(
                (*item.path, "writeKey"), f"is the write key of source {owners[key]!r} already"
            )
        owners.setdefault(key, source_id)
        plan = item.child("dgSourceTrackingPlanConfig")
        if (plan.text("sourceId") or plan.mapping("trackingPlan")) and not plan.truth("deleted"):
            self._report.warning(
                (*item.path, "dgSourceTrackingPlanConfig"), "is not enforced yet: events are not checked"
            )
        if item.truth("transient"):
            self._report.warning(
                (*item.path, "transient"), "has no effect: events stay in the stream for its retention"
            )
        definition = item.child("sourceDefinition")
        webhook = definition.text("category").lower() == "webhook"
        kind = definition.text("type") or definition.text("name") or "http"
        return Source(
            id=source_id,
            name=item.text("name") or source_id,
            write_keys=(key,) if key else (),
            type="webhook" if webhook else kind.lower(),
            enabled=item.truth("enabled"),
            geo_enrichment=item.child("geoEnrichment").truth("enabled"),
        )

    def _id(self, item: _Object) -> str:
        found = item.text("id")
        if not is_id(found):
            self._report.error((*item.path, "id"), "is missing or no id (letters, digits, '.', '_', '-')")
        return found

    # ------------------------------------------------------------ destinations

    def _destination(self, same: Sequence[_Copy]) -> Destination:
        first = same[0].fields
        for copy in same[1:]:
            if copy.fields.mapping("config") != first.mapping("config"):
                self._report.warning(
                    (*copy.fields.path, "config"),
                    f"differs from the one at {written(first.path)}, which is used for all sources",
                )
        definition = first.child("destinationDefinition")
        type_name = definition.text("name").upper()
        traits = definition.child("config")
        config = first.mapping("config")
        secret_names = {name for name in config if _names_secret(name)} | set(
            _texts(traits.raw("secretKeys"))
        )
        check = check_settings(
            self._checks.config, type_name, with_secrets(config, secret_names), self._report
        )
        enabled = any(copy.fields.truth("enabled") for copy in same)
        used = self._transformation(same)
        types = _message_types(traits.raw("supportedMessageTypes"))
        reason = self._report.clean(self._obstacle(used, type_name, check, types)) if enabled else ""
        if reason:
            self._report.warning(first.path, f"destination {first.text('id')!r} is switched off: {reason}")
        secret_names |= check.secret_fields
        hidden = {name.partition(".")[0] for name in secret_names} | set(_texts(traits.raw("excludeKeys")))
        return Destination(
            id=first.text("id"),
            name=first.text("name") or first.text("id"),
            type=type_name,
            display_name=definition.text("displayName"),
            enabled=enabled and not reason,
            disabled_reason=reason,
            config=check.config,
            raw_config=with_secrets(config, secret_names),
            client_config={
                name: config[name]
                for name in _texts(traits.raw("includeKeys"))
                if name in config and name not in hidden
            },
            message_types=types or (),
            transformations=(used.id,) if isinstance(used, Transformation) else (),
            consent=_consent(config),
            one_trust_categories=_named(config.get("oneTrustCookieCategories"), "oneTrustCookieCategory"),
            ketch_purposes=_named(config.get("ketchConsentPurposes"), "purpose"),
        )

    def _transformation(self, same: Sequence[_Copy]) -> Transformation | CodeMissing | None:
        """Return what the destination's events go through; None if it has no transformation."""
        listed = [list(copy.fields.children("transformations")) for copy in same]
        versions = [[item.text("versionId") for item in items] for items in listed]
        if not any(versions):
            return None
        if any(other[:1] != versions[0][:1] for other in versions[1:]):
            return CodeMissing("it has another transformation under each of its sources")
        first, *more = listed[0]
        if more:
            self._report.warning(more[0].path, "is not run: of several transformations the first one counts")
        used = self._code.transformation(first.text("versionId"), first.text("id"), first.value)
        if isinstance(used, Transformation):
            self._transformations[used.id] = used
        return used

    def _credentials(self, whole: _Object) -> dict[str, Secret]:
        """Return what `getCredential` tells every transformation of the workspace."""
        found: dict[str, Secret] = {}
        for name, item in whole.mapping("credentials").items():
            if isinstance(item, dict):
                fields = _Object(item, (*whole.path, "credentials", name), self._report)
                found[fields.text("key")] = Secret(fields.text("value"))
                self._report.hide(fields.text("value"))
        return found

    def _obstacle(
        self,
        used: Transformation | CodeMissing | None,
        type_name: str,
        check: ConfigCheck,
        types: tuple[str, ...] | None,
    ) -> str:
        """Return why events must not go there, or an empty text."""
        if isinstance(used, CodeMissing):
            return used.why
        if not type_name:
            return "its destinationDefinition has no name"
        if not check.known:
            return f"there is no destination type {type_name} yet"
        wrong = [problem for problem in check.problems if problem.severity == "error"]
        if wrong:
            return "; ".join(f"config.{problem.path}: {problem.message}" for problem in wrong)
        if types == ():
            return "it takes only message types that there are not"
        return ""

    # ------------------------------------------------------------ connections

    def _connection(self, copy: _Copy, destination: Destination, blocked: Sequence[Filter]) -> Connection:
        fields = copy.fields
        if not fields.has("isProcessorEnabled") and fields.truth("enabled"):
            self._report.warning(
                (*fields.path, "isProcessorEnabled"), "is absent, which means false: no event goes there"
            )
        # A destination that is off as a whole keeps its place; only copies that disagree are cut off here.
        switched_on = fields.truth("enabled") or not destination.enabled
        return Connection(
            source_id=copy.source.id,
            destination_id=destination.id,
            enabled=fields.truth("isProcessorEnabled") and switched_on,
            filters=(*blocked, *self._filters(copy)),
        )

    def _blocked(self, whole: _Object) -> tuple[Filter, ...]:
        names = _texts(whole.child("settings").child("eventBlocking").child("events").raw("track"))
        return (Filter(name="event-blocking", where=_track_not_in(names)),) if names else ()

    def _filters(self, copy: _Copy) -> Iterator[Filter]:
        fields = copy.fields
        config = fields.mapping("config")
        yield from self._event_filtering(fields, config)
        traits = fields.child("destinationDefinition").child("config")
        if traits.text("transformAt") == "none":
            return
        if config.get("enableServerSideIdentify") is False:
            yield Filter(name="server-side-identify", where='event.type != "identify"')
        if config.get("connectionMode") == "hybrid":
            source_type = copy.source.type
            hybrid = traits.child("hybridModeCloudEventsFilter").child(source_type).raw("messageType")
            if hybrid is not None:
                names = [name for name in _texts(hybrid) if name in _MESSAGE_TYPES]
                if names:
                    yield Filter(name="hybrid-mode", types=tuple(names))
                else:
                    yield Filter(name="hybrid-mode", where="false")
        conversions = _named(config.get("listOfConversions"), "conversions")
        if conversions:
            yield Filter(
                name="conversions", where=f"!has(event.event) || event.event in {_cel_list(conversions)}"
            )

    def _event_filtering(self, fields: _Object, config: Mapping[str, Any]) -> Iterator[Filter]:
        option = config.get("eventFilteringOption")
        if option not in ("whitelistedEvents", "blacklistedEvents"):
            return
        names = [name.strip() for name in _named(config.get(option), "eventName") if name.strip()]
        if not names:
            return
        self._report.warning(
            (*fields.path, "config", "eventFilteringOption"),
            "holds here for everything that goes to the destination, not for device mode only",
        )
        allow = option == "whitelistedEvents"
        yield Filter(name="event-filtering", where=_track_only_in(names) if allow else _track_not_in(names))


# ---------------------------------------------------------------- their lists, our expressions


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _named(value: Any, key: str) -> tuple[str, ...]:
    """Return the non-empty texts under `key` of a list of objects, as their forms store lists."""
    items = value if isinstance(value, list) else []
    found = (item.get(key) for item in items if isinstance(item, dict))
    return tuple(text for text in found if isinstance(text, str) and text.strip())


def _message_types(value: Any) -> tuple[str, ...] | None:
    """Return the types of `["track"]` or `{"cloud": ["track"]}`; None when none are given."""
    listed = value.get("cloud") if isinstance(value, dict) else value
    names = _texts(listed)
    return tuple(name for name in names if name in _MESSAGE_TYPES) if names else None


def _consent(config: Mapping[str, Any]) -> tuple[ConsentRule, ...]:
    given = config.get("consentManagement")
    if isinstance(given, dict):  # by source type, as the dashboard stores it: every rule counts
        given = [rule for rules in given.values() if isinstance(rules, list) for rule in rules]
    rules: dict[ConsentRule, None] = {}
    for item in given if isinstance(given, list) else []:
        consents = _named(item.get("consents"), "consent") if isinstance(item, dict) else ()
        if consents:
            strategy: Literal["and", "or"] = "or" if item.get("resolutionStrategy") == "or" else "and"
            provider = item.get("provider")
            named = provider if isinstance(provider, str) else ""
            rules[ConsentRule(provider=named, strategy=strategy, consents=consents)] = None
    return tuple(rules)


def _names_secret(name: str) -> bool:
    folded = name.lower().replace("_", "").replace("-", "")
    return any(word in folded for word in _SECRET_WORDS)


def _cel_list(names: Sequence[str]) -> str:
    # A JSON string is a CEL string: https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax
    return json.dumps(list(names), ensure_ascii=False)


def _track_only_in(names: Sequence[str]) -> str:
    return f'event.type != "track" || (has(event.event) && event.event in {_cel_list(names)})'


def _track_not_in(names: Sequence[str]) -> str:
    return f'event.type != "track" || !has(event.event) || !(event.event in {_cel_list(names)})'
