"""From an event to rows of tables: which tables, which columns, which types. Pure; the hot path of a load.

canonical event -> **rows** -> staging -> loader. The tables are RudderStack's (`tracks` and a table per event,
`identifies`, `users`, `pages`, `screens`, `groups`, `aliases`); docs/reference/warehouse-tables.md draws them and says
where the default (`compatibility: mainstem`) keeps what RudderStack loses.

    track      tracks, and the event's own table      page, screen   pages, screens
    identify   identifies, users                      group, alias   groups, aliases
    extract    the event's own table                  merge          merges

A row is made of three parts: what the user sent (`properties`, `traits`), the context (`context_…`) and the columns
that every row has (`id`, `received_at` …). How a key becomes a column is computed once for each path of keys.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal, cast

import msgspec

from mainstem.errors import MainstemError
from mainstem.warehouse import kinds
from mainstem.warehouse.flattening import Cells, Flattener, Path, Plan, Unnamed
from mainstem.warehouse.kinds import json_text
from mainstem.warehouse.naming import Engine, Namer, engine_of
from mainstem.warehouse.schema import ColumnType
from mainstem.warehouse.settings import WarehouseSettings

Json = Any

_MAX_EVENTS: Final = 20_000
"""Names of events whose tables are remembered."""


class Row(msgspec.Struct):
    """A row of a table."""

    table: str
    columns: dict[str, ColumnType]
    """All columns the row makes the table have; some have no value (`uuid_ts` is the engine's)."""
    data: dict[str, Any]


class RowsRefused(MainstemError):
    """An event can't be rows. The writer keeps it whole, as a discard.

    Attributes:
        namespace: where its rows would have gone; set by who knows.
    """

    namespace: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an event beside what it says."""

    source_category: str = ""
    """`cloud` and `singer-protocol` are sources whose records have ids of their own."""
    source_id: str = ""
    source_type: str = ""
    destination_id: str = ""
    destination_type: str = ""


class RowOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How events become rows."""

    provider: str
    """RudderStack's name of an engine, or one of ours."""
    compatibility: Literal["mainstem", "rudderstack"] = "mainstem"
    skip_tracks_table: bool = False
    skip_users_table: bool = False
    underscore_divide_numbers: bool = False
    allow_users_context_traits: bool = False
    store_full_event: bool = False
    json_paths: tuple[str, ...] = ()
    """Values that are a column of JSON: `track.properties.cart`, or `cart` for properties of track events."""
    use_blendo_casing: bool = False
    skip_reserved_words_escaping: bool = False
    id_resolution: bool = False
    """Rows of `rudder_identity_merge_rules` too."""
    keep_empty_strings: bool = False
    """An empty text is a value. By default it is none, as in RudderStack."""
    max_columns: int = 1600
    """An event that makes more is refused."""
    max_name: int = 0
    """Bytes of a name; 0: what RudderStack allows the engine."""


def options_of(settings: WarehouseSettings, provider: str) -> RowOptions:
    """Return the options that a warehouse's settings mean."""
    return RowOptions(
        provider=provider,
        compatibility=settings.compatibility,
        skip_tracks_table=settings.skip_tracks_table,
        skip_users_table=settings.skip_users_table,
        underscore_divide_numbers=settings.underscore_divide_numbers,
        allow_users_context_traits=settings.allow_users_context_traits,
        store_full_event=settings.store_full_event,
        keep_empty_strings=settings.keep_empty_strings,
        json_paths=paths_of(settings.json_paths),
    )


def paths_of(text: str) -> tuple[str, ...]:
    """Return paths that are separated by commas."""
    return tuple(path.strip() for path in text.split(",") if path.strip())


ToRows = Callable[[Mapping[str, Json], Facts], Sequence[Row]]
_NO_FACTS: Final = Facts()


def compile_rows(options: RowOptions) -> ToRows:
    """Return the function that makes an event's rows. It never changes the event.

    Raises:
        RowsRefused: (the function) the event can't be rows.
    """
    engine = engine_of(options.provider)
    usual = _compiled(options)
    names = (options.provider.upper(), options.provider.lower())

    def rows(message: Mapping[str, Json], facts: Facts = _NO_FACTS) -> Sequence[Row]:
        integrations = message.get("integrations")
        if isinstance(integrations, dict) and len(integrations) > 1:
            asked = _asked(options, engine, names, integrations)
            if asked is not options:
                return _made(_compiled(asked), message, facts)
        return _made(usual, message, facts)

    return rows


def _made(compiled: "_Compiled", message: Mapping[str, Json], facts: Facts) -> Sequence[Row]:
    try:
        return compiled.rows(message, facts)
    except RecursionError:
        raise RowsRefused("nested too deep") from None
    except Unnamed as error:
        raise RowsRefused(str(error)) from None


def _asked(
    options: RowOptions, engine: Engine, names: Sequence[str], integrations: Mapping[str, Json]
) -> RowOptions:
    """Return the options for an event that asks for others: `integrations.RS.options`."""
    own: Mapping[str, Json] = {}
    for name in names:
        found = integrations.get(name)
        if isinstance(found, dict) and isinstance(found.get("options"), dict):
            own = found["options"]
    shared: Json = integrations.get("DATA_WAREHOUSE")
    shared = shared.get("options") if isinstance(shared, dict) else None
    shared = shared if isinstance(shared, dict) else {}
    if not own and not shared:
        return options
    changes: dict[str, Json] = {}
    for key, field in _EVENT_OPTIONS.items():
        if isinstance(own.get(key), bool):
            changes[field] = own[key]
    if engine.json_paths:
        paths = [
            path
            for found in (own.get("jsonPaths"), shared.get("jsonPaths"))
            for path in (found if isinstance(found, list) else [])
            if isinstance(path, str)
        ]
        if paths:
            changes["json_paths"] = (*options.json_paths, *(path.strip() for path in paths[:100]))
    return msgspec.structs.replace(options, **changes) if changes else options


_EVENT_OPTIONS: Final = {
    "skipTracksTable": "skip_tracks_table",
    "skipUsersTable": "skip_users_table",
    "useBlendoCasing": "use_blendo_casing",
    "skipReservedKeywordsEscaping": "skip_reserved_words_escaping",
}

# ------------------------------------------------------------ columns that rows have by themselves

_COMMON: Final[tuple[tuple[str, str, bool], ...]] = (
    ("messageId", "id", False),
    ("anonymousId", "anonymous_id", False),
    ("userId", "user_id", False),
    ("sentAt", "sent_at", True),
    ("timestamp", "timestamp", True),
    ("receivedAt", "received_at", True),
    ("originalTimestamp", "original_timestamp", True),
    ("channel", "channel", False),
)
"""Field of the event, column, whether it is a time."""
_ADDRESSES: Final = ("context_ip", "context_request_ip", "context_passed_ip")
_RESERVED: Final = (*(column for _, column, _ in _COMMON), *_ADDRESSES)
_FILLED_BY_ENGINE: Final = ("uuid_ts", "loaded_at")
_USERS_TIMES: Final = ("sent_at", "timestamp", "original_timestamp")
_SECTIONS: Final = ("properties", "traits", "userProperties", "context")
_TYPES: Final = frozenset(("track", "identify", "page", "screen", "group", "alias", "extract", "merge"))
_TABLES: Final = {
    "identify": "identifies",
    "page": "pages",
    "screen": "screens",
    "group": "groups",
    "alias": "aliases",
    "merge": "merges",
}
_SECTION_OF: Final = {
    "track": "properties",
    "page": "properties",
    "screen": "properties",
    "extract": "properties",
    "identify": "traits",
    "group": "traits",
    "alias": "traits",
}
"""What of a type's events are columns without a prefix."""
_OWN: Final = {"track": ("event", "event_text"), "group": ("group_id",), "alias": ("previous_id",)}
_RECORD_SOURCES: Final = ("cloud", "singer-protocol")


@lru_cache(maxsize=64)
def _compiled(options: RowOptions) -> "_Compiled":
    return _Compiled(options)


class _Compiled:
    """Rows by one set of options."""

    def __init__(self, options: RowOptions) -> None:
        engine = engine_of(options.provider)
        self.options = options
        self.engine = engine
        self.as_rudderstack = options.compatibility == "rudderstack"
        self.namer = Namer(
            engine,
            as_rudderstack=self.as_rudderstack,
            divide_numbers=options.underscore_divide_numbers,
            blendo=options.use_blendo_casing,
            escape_words=not options.skip_reserved_words_escaping,
            max_name=options.max_name,
        )
        self._typed = kinds.as_rudderstack(engine) if self.as_rudderstack else kinds.kept(engine)
        self._short = engine.short
        flattener = Flattener(
            engine,
            self.namer,
            as_rudderstack=self.as_rudderstack,
            keep_empty_strings=options.keep_empty_strings,
        )
        self.flatten = flattener.flatten
        self._flatten_apart = flattener.flatten_apart
        fixed = self.namer.fixed
        self._common = tuple((field, fixed(column), time) for field, column, time in _COMMON)
        self._address_columns = tuple(fixed(column) for column in _ADDRESSES)
        self._n = {
            name: fixed(name)
            for name in (
                *(column for _, column, _ in _COMMON),
                *("event", "event_text", "name", "group_id", "previous_id", "record_id", "rudder_event"),
                *("merge_properties", "context", "properties", "traits"),
                *("context_source_id", "context_source_type"),
                *("context_destination_id", "context_destination_type"),
            )
        }
        filled = ("uuid_ts", "loaded_at") if engine.loaded_at else ("uuid_ts",)
        self._filled: dict[str, ColumnType] = {fixed(column): "datetime" for column in filled}
        self._plans: dict[tuple[str, str, bool], Plan] = {}
        self._tables: dict[str, tuple[str, str]] = {}
        self._json_paths = (
            _json_paths(options.json_paths) if engine.json_paths or not self.as_rudderstack else {}
        )
        self._cleared = {
            kind: tuple(fixed(name) for name in (*_RESERVED, *_OWN.get(kind, ()))) for kind in _TABLES
        }
        """Columns that RudderStack takes from what the user sent, also where the event has nothing for them."""
        self._users = engine.users and not options.skip_users_table
        self._users_times = () if engine.lake else tuple(fixed(name) for name in _USERS_TIMES)
        self._users_without = frozenset(
            fixed(name) for name in (*(column for _, column, _ in _COMMON), "rudder_event")
        )

    # ------------------------------------------------------------ events

    def rows(self, message: Mapping[str, Json], facts: Facts) -> Sequence[Row]:
        kind = message.get("type")
        kind = kind.lower() if isinstance(kind, str) else ""
        if kind not in _TYPES:
            raise RowsRefused(f"no tables for events of type {kind or 'none'}")
        if kind == "track":
            rows = self._track(message, facts)
        elif kind == "identify":
            rows = self._identify(message, facts)
        elif kind == "extract":
            rows = self._extract(message, facts)
        elif kind == "merge":
            rows = self._merge(message, facts)
        else:
            rows = self._other(kind, message, facts)
        most = self.options.max_columns
        if self.as_rudderstack and (self.engine.lake or message.get("channel") == "sources"):
            return rows
        for row in rows:
            if len(row.columns) > most:
                raise RowsRefused(
                    f"too many columns: the event makes {len(row.columns)} in {row.table}, {most} are allowed"
                )
        return rows

    def _track(self, message: Mapping[str, Json], facts: Facts) -> list[Row]:
        names = self._n
        event = _event_name(message.get("event"))
        table, event_name = self._table(event) if event else ("", "")
        base = self._base("track", message, facts)
        data, columns = base
        data[names["event"]] = event_name
        columns[names["event"]] = "string"
        if event:
            data[names["event_text"]] = event
            columns[names["event_text"]] = "string" if self.as_rudderstack else self._typed_text(event)
        record = self._record(message, facts)
        rows: list[Row] = []
        if not self.options.skip_tracks_table:
            tracks = Row(self.namer.fixed("tracks"), columns | self._filled, dict(data))
            self._put_full(tracks.data, tracks.columns, message)
            if record is not None:
                tracks.data[names["record_id"]] = id_text_of(record)
                tracks.columns[names["record_id"]] = "string"
            rows.append(tracks)
        elif not self.as_rudderstack:
            self._put_full(data, columns, message)
        if not table:
            if event:
                raise RowsRefused("nothing that could name a table is left of the event's name")
            if not self.as_rudderstack and self._says_something("track", message):
                raise RowsRefused("a track event without a name: no table for its properties")
            return rows
        row = self._row(table, "track", message, facts, base)
        if record is not None:
            if self.as_rudderstack:
                row.data.pop(names["record_id"], None)
                row.columns.pop(names["record_id"], None)
            self._identified(row, record)
        rows.append(row)
        return rows

    def _extract(self, message: Mapping[str, Json], facts: Facts) -> list[Row]:
        names = self._n
        event = _event_name(message.get("event"))
        table, event_name = self._table(event) if event else ("", "")
        if not table:
            raise RowsRefused("an extract event without a name that a table could have")
        context = self._context("extract", message, facts)
        data, columns = dict(context[0]), dict(context[1])
        data[names["event"]] = event if self.as_rudderstack else event_name
        columns[names["event"]] = "string"
        self._put_field(data, columns, names["id"], message.get("messageId"), time=False)
        self._put_field(data, columns, names["received_at"], message.get("receivedAt"), time=True)
        self._put_full(data, columns, message)
        row = self._row(table, "extract", message, facts, (data, columns))
        record = message.get("recordId")
        if record is not None and facts.source_category in _RECORD_SOURCES:
            self._identified(row, record)
        return [row]

    def _identify(self, message: Mapping[str, Json], facts: Facts) -> list[Row]:
        names = self._n
        base = self._base("identify", message, facts)
        self._put_full(*base, message)
        row = self._row(self.namer.fixed("identifies"), "identify", message, facts, base)
        rows = [row]
        if self.options.id_resolution:
            rows += self._merge_rules("identify", message)
        user_id = message.get("userId")
        if not self._users or _blank(user_id):
            return rows
        if self.as_rudderstack:
            context = self._context("identify", message, facts)
            of_user = self._row("", "identify", message, facts, context, cleared=False)
            data, columns = of_user.data, of_user.columns
            for name in self._address_columns:
                if name in row.data:
                    data[name], columns[name] = row.data[name], row.columns[name]
        else:
            without = self._users_without
            data = {name: value for name, value in row.data.items() if name not in without}
            columns = {name: row.columns[name] for name in data}
        for name in self._users_times:
            if name in row.data:
                data[name], columns[name] = row.data[name], row.columns[name]
        if names["user_id"] in row.data:
            data[names["id"]] = row.data[names["user_id"]]
            columns[names["id"]] = row.columns[names["user_id"]]
        if names["received_at"] in row.data:
            data[names["received_at"]] = row.data[names["received_at"]]
            columns[names["received_at"]] = row.columns[names["received_at"]]
        columns.update(self._filled)
        rows.append(Row(self.namer.fixed("users"), columns, data))
        return rows

    def _other(self, kind: str, message: Mapping[str, Json], facts: Facts) -> list[Row]:
        names = self._n
        data, columns = base = self._base(kind, message, facts)
        if kind in ("page", "screen"):
            name = message.get("name")
            if _blank(name):
                properties = message.get("properties")
                name = (
                    properties.get("name") if self.as_rudderstack and isinstance(properties, dict) else None
                )
            self._put_field(data, columns, names["name"], name, time=False)
        elif kind == "group":
            self._put_field(data, columns, names["group_id"], message.get("groupId"), time=False)
        else:
            self._put_field(data, columns, names["previous_id"], message.get("previousId"), time=False)
        self._put_full(data, columns, message)
        rows = [self._row(self.namer.fixed(_TABLES[kind]), kind, message, facts, base)]
        if self.options.id_resolution:
            rows += self._merge_rules(kind, message)
        return rows

    def _merge(self, message: Mapping[str, Json], facts: Facts) -> list[Row]:
        if self.options.id_resolution:
            rules = self._merge_rules("merge", message)
            if not rules:
                raise RowsRefused("a merge event without two `mergeProperties`, each with a type and a value")
            if self.as_rudderstack:
                return rules
        elif self.as_rudderstack:
            return []
        data, columns = base = self._base("merge", message, facts)
        given = message.get("mergeProperties")
        if given:
            data[self._n["merge_properties"]] = json_text(given)
            columns[self._n["merge_properties"]] = "string"
        self._put_full(data, columns, message)
        rows = [self._row(self.namer.fixed("merges"), "merge", message, facts, base)]
        return rows + (rules if self.options.id_resolution else [])

    def _merge_rules(self, kind: str, message: Mapping[str, Json]) -> list[Row]:
        """Return the row that says which identities are one person's."""
        pairs: list[tuple[str, Json]] = []
        if kind == "merge":
            given = message.get("mergeProperties")
            pairs = [
                (id_text_of(item["type"]), item["value"])
                for item in (given if isinstance(given, list) else ())
                if isinstance(item, dict) and not _blank(item.get("type")) and not _blank(item.get("value"))
            ]
            if len(pairs) != 2:
                return []
        elif kind == "alias":
            pairs = [("user_id", message.get("userId")), ("user_id", message.get("previousId"))]
        else:
            pairs = [("anonymous_id", message.get("anonymousId")), ("user_id", message.get("userId"))]
        pairs = [(name, id_text_of(value)) for name, value in pairs if not _blank(value)]
        if not pairs or (kind == "alias" and len(pairs) != 2):
            return []
        data: dict[str, Json] = {}
        for number, (name, value) in enumerate(pairs, 1):
            data[self.namer.fixed(f"merge_property_{number}_type")] = name
            data[self.namer.fixed(f"merge_property_{number}_value")] = value
        columns: dict[str, ColumnType] = dict.fromkeys(data, "string")
        return [Row(self.namer.fixed("rudder_identity_merge_rules"), columns, data)]

    # ------------------------------------------------------------ parts of a row

    def _base(self, kind: str, message: Mapping[str, Json], facts: Facts) -> Cells:
        """Return the columns that all rows of an event have: new ones, to be changed."""
        context_data, context_columns = self._context(kind, message, facts)
        data, columns = dict(context_data), dict(context_columns)
        if self.as_rudderstack:
            for field, column, time in self._common:
                self._put_field(data, columns, column, message.get(field), time=time)
        else:
            get, short, typed = message.get, self._short, self._typed_text
            for field, column, time in self._common:
                value = get(field)
                if value is None or value == "":
                    continue
                data[column] = value = value if type(value) is str else id_text_of(value)
                columns[column] = "datetime" if time else "string" if len(value) < short else typed(value)
        context = message.get("context")
        passed = context.get("ip") if isinstance(context, dict) else None
        if isinstance(passed, dict):  # it is columns of its own
            passed = None
        request = message.get("request_ip")
        ip_column, request_column, passed_column = self._address_columns
        self._put_field(data, columns, ip_column, request if _blank(passed) else passed, time=False)
        self._put_field(data, columns, request_column, request, time=False)
        self._put_field(data, columns, passed_column, passed, time=False)
        return data, columns

    def _put_field(
        self, data: dict[str, Json], columns: dict[str, ColumnType], column: str, value: Json, *, time: bool
    ) -> None:
        """Set a column of our own, if there is a value."""
        if self.as_rudderstack:
            if value is None or value == "" or isinstance(value, dict | list):
                return
            if type(value) is str and len(value) < self._short and (len(value) < 10 or value[4] != "-"):
                data[column], columns[column] = value, "string"
                return
            kind, value = self._typed(value)
            if time and kind == "datetime":
                value = in_utc(value)
            data[column], columns[column] = value, kind
        elif value is not None and value != "":
            data[column] = text = value if type(value) is str else id_text_of(value)
            columns[column] = "datetime" if time else self._typed_text(text)

    def _typed_text(self, text: str) -> ColumnType:
        """Return the type of a text that is one whatever it says."""
        return "string" if len(text) < self._short or self._typed(text)[0] != "text" else "text"

    def _put_full(
        self, data: dict[str, Json], columns: dict[str, ColumnType], message: Mapping[str, Json]
    ) -> None:
        if self.options.store_full_event:
            column = self._n["rudder_event"]
            data[column] = json_text(kinds.as_javascript(message) if self.as_rudderstack else message)
            columns[column] = cast("ColumnType", self.engine.event_type) or self._typed(data[column])[0]

    def _identified(self, row: Row, record: Json) -> None:
        """Give a row the id that its record has at its source."""
        kind, value = self._typed(record)
        row.data[self._n["id"]] = value if self.as_rudderstack else id_text_of(record)
        row.columns[self._n["id"]] = kind if self.as_rudderstack else "string"

    def _record(self, message: Mapping[str, Json], facts: Facts) -> Json:
        """Return the id that the event's record has at its source, None where there is no such thing."""
        if facts.source_category not in _RECORD_SOURCES:
            return None
        context = message.get("context")
        sources = context.get("sources") if isinstance(context, dict) else None
        if not isinstance(sources, dict) or not sources.get("version"):
            return None
        record = message.get("recordId")
        if record is None or record == "":
            raise RowsRefused("recordId cannot be empty for cloud sources events")
        return record

    def _context(self, kind: str, message: Mapping[str, Json], facts: Facts) -> Cells:
        context = message.get("context")
        if not isinstance(context, dict):
            data: dict[str, Json] = {}
            columns: dict[str, ColumnType] = {}
            if not self.as_rudderstack and not _blank(context):
                columns[self._n["context"]], data[self._n["context"]] = self._typed(context)
        else:
            joined = _joined(context.get("traits"))
            if joined is not None:
                context = {**context, "traits": joined}
            cloud = facts.source_category == "cloud"
            data, columns = self.flatten(context, self.plan(kind, "context", cloud=cloud))
        if facts is not _NO_FACTS and not self.as_rudderstack:
            for name in ("source_id", "source_type", "destination_id", "destination_type"):
                value = getattr(facts, name)
                if value:
                    column = self._n[f"context_{name}"]
                    data[column], columns[column] = value, "string"
        return data, columns

    def _row(
        self,
        table: str,
        kind: str,
        message: Mapping[str, Json],
        facts: Facts,
        base: Cells,
        *,
        cleared: bool = True,
    ) -> Row:
        """Return a row of what the user sent, over what all rows of the event have."""
        cloud = facts.source_category == "cloud"
        if self.as_rudderstack:
            data: dict[str, Json] = {}
            columns: dict[str, ColumnType] = {}
            for section, given in self._given(kind, message):
                found = self.flatten(given, self.plan(kind, section, cloud=cloud))
                data.update(found[0])
                columns.update(found[1])
            for column in self._cleared.get(kind, ()) if cleared else ():
                if column not in base[0]:
                    data.pop(column, None)
                    columns.pop(column, None)
            data.update(base[0])
            columns.update(base[1])
            columns.update(self._filled)
            return Row(table, columns, data)
        data, columns = {}, {}
        for section, given in self._given(kind, message):
            plan = self.plan(kind, section, cloud=cloud)
            found = self.flatten(given, plan)
            if not found[0]:
                continue
            if section == "context.traits":
                data, columns = found
                continue
            size = len(data)
            if section == "traits" and kind == "identify":
                data.update(found[0])  # they are in context_traits_ too
                columns.update(found[1])
            elif not size:
                data, columns = found
            else:
                data.update(found[0])
                if len(data) < size + len(found[0]):
                    return self._row_apart(table, kind, message, cloud, base)
                columns.update(found[1])
        if data:
            size = len(data) + len(base[0])
            data.update(base[0])
            if len(data) < size:
                return self._row_apart(table, kind, message, cloud, base)
        else:
            data = dict(base[0])
        columns = {**columns, **base[1], **self._filled}
        return Row(table, columns, data)

    def _row_apart(self, table: str, kind: str, message: Mapping[str, Json], cloud: bool, base: Cells) -> Row:
        """As `_row`, for an event in which two values would have the same column: neither is lost."""
        data, columns = dict(base[0]), dict(base[1])
        expendable: Cells = ({}, {})
        for section, given in self._given(kind, message):
            plan = self.plan(kind, section, cloud=cloud)
            if section == "context.traits":
                expendable = self.flatten(given, plan)
                continue
            found = self._flatten_apart(given, plan, taken=data)
            data.update(found[0])
            columns.update(found[1])
        for column, value in expendable[0].items():
            if column not in data:
                data[column], columns[column] = value, expendable[1][column]
        columns.update(self._filled)
        return Row(table, columns, data)

    def _given(self, kind: str, message: Mapping[str, Json]) -> list[tuple[str, dict[str, Json]]]:
        """Return what the user sent in an event, part by part; later parts matter more."""
        main = _SECTION_OF.get(kind, "")
        found: list[tuple[str, dict[str, Json]]] = []
        user = message.get("userProperties") if kind in ("identify", "track") else None
        if self.as_rudderstack and isinstance(user, dict) and user:
            found.append(("userProperties", user))
        if kind == "identify" and self.options.allow_users_context_traits:
            context = message.get("context")
            traits = context.get("traits") if isinstance(context, dict) else None
            if isinstance(traits, dict) and traits and _joined(traits) is None:
                found.append(("context.traits", traits))
        given = message.get(main) if main else None
        if isinstance(given, dict):
            if given and not (self.as_rudderstack and _joined(given) is not None):
                found.append((main, given))
        elif given is not None and not self.as_rudderstack and not _blank(given):
            found.append(("", {main: given}))
        if not self.as_rudderstack:
            if isinstance(user, dict) and user:
                found.append(("userProperties", user))
            found += [
                ("", {section: message[section]})
                for section in ("properties", "traits")
                if section != main and not _blank(message.get(section))
            ]
        return found

    def _says_something(self, kind: str, message: Mapping[str, Json]) -> bool:
        return any(
            self.flatten(given, self.plan(kind, section))[0] for section, given in self._given(kind, message)
        )

    # ------------------------------------------------------------ columns

    def plan(self, kind: str, section: str, *, cloud: bool = False) -> Plan:
        plan = self._plans.get((kind, section, cloud))
        if plan is None:
            reserved: set[str] = set()
            if section == "context":
                if self.as_rudderstack or kind != "extract":
                    reserved.update(_ADDRESSES)
                if not self.as_rudderstack:
                    reserved.update(("context_source_id", "context_source_type"))
                    reserved.update(("context_destination_id", "context_destination_type"))
            elif kind == "extract":
                reserved.update(("id", "received_at", "event") if not self.as_rudderstack else ())
            else:
                reserved.update(_RESERVED)
            if not self.as_rudderstack:
                reserved.update((*_OWN.get(kind, ()), *_FILLED_BY_ENGINE, "rudder_event"))
                if kind == "merge":
                    reserved.add("merge_properties")
            paths = self._json_paths.get((kind, section), frozenset())
            plan = Plan(
                self.namer,
                ("context",) if section == "context" else (),
                frozenset(
                    self.namer.cased(name) if self.as_rudderstack else self.namer.fixed(name)
                    for name in reserved
                ),
                paths,
                as_rudderstack=self.as_rudderstack,
                cloud=cloud,
            )
            self._plans[kind, section, cloud] = plan
        return plan

    def _table(self, event: str) -> tuple[str, str]:
        """Return the table of an event's name, and the name as it stands in `event`."""
        found = self._tables.get(event)
        if found is None:
            if len(self._tables) >= _MAX_EVENTS:
                self._tables.clear()
            found = self._tables[event] = (self.namer.table(event), self.namer.event(event))
        return found


def columns_of(given: Mapping[str, Json], options: RowOptions, kind: str, facts: Facts = _NO_FACTS) -> Cells:
    """Return the columns of what the user sent in an event of a type: its `properties` or `traits`."""
    compiled = _compiled(options)
    plan = compiled.plan(kind, _SECTION_OF[kind], cloud=facts.source_category == "cloud")
    return compiled.flatten(given, plan)


def _json_paths(paths: Sequence[str]) -> dict[tuple[str, str], frozenset[Path]]:
    """Return the paths of keys that are kept as JSON, by type of event and part of it."""
    found: dict[tuple[str, str], set[Path]] = {}
    for path in paths:
        parts = tuple(path.strip().split("."))
        if len(parts) > 2 and parts[0] in _TYPES and parts[1] in _SECTIONS:
            kind, section, keys = parts[0], parts[1], parts[2:]
            found.setdefault((kind, section), set()).add(keys)
            if section == "context" and keys[0] == "traits" and len(keys) > 1:
                found.setdefault((kind, "context.traits"), set()).add(keys[1:])
        elif parts[0]:
            found.setdefault(("track", "properties"), set()).add(parts)
            found.setdefault(("track", "userProperties"), set()).add(parts)
    return {place: frozenset(found_paths) for place, found_paths in found.items()}


def _event_name(value: Json) -> str:
    if value is None or isinstance(value, dict | list):
        return ""
    return value if isinstance(value, str) else id_text_of(value)


def id_text_of(value: Json) -> str:
    """Return a value as the text of an id: 100, not 100.0."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return json_text(value)


def _blank(value: Json) -> bool:
    return value is None or (isinstance(value, str | dict | list) and not value)


def _joined(traits: Json) -> str | None:
    """Return the text that an SDK sent letter by letter ({"0": "a", "1": "b"}); None if it is a real object."""
    if not isinstance(traits, dict) or not traits or len(traits) > 10_000:
        return None
    first = next(iter(traits))
    if first not in ("0", "1"):
        return None
    start = int(first)
    for number, (key, value) in enumerate(traits.items(), start):
        if key != str(number) or type(value) is not str or len(value) != 1:
            return None
    return "".join(traits.values())


def in_utc(text: str) -> str:
    """Return a time (`is_moment`) as JavaScript writes it: in UTC, with milliseconds."""
    if len(text) == 24 and text[10] == "T" and text[19] == "." and text[23] == "Z":
        return text
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return text
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
