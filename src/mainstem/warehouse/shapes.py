"""Events of one shape become columns together: the fast way from events to tables.

rows (the rules) -> **shapes** -> staging. Most events look like one that came before: the same keys in the same order,
with values of the same types. Where the values of such a shape go is worked out once, and from then on an event costs
a walk through its keys; its values go to their columns as they are, thousands at a time.

It is worked out by trying: the rules are given a message of that shape whose values are marked, and the marks are
looked up in the rows. So the rules are in one place, `rows`, and nothing here knows of any. Trying also finds what
depends on values: each value is made empty once, and where that moves others, events with an empty value there are left
to the rules. What the trials do not explain (columns that collide, objects kept as JSON) leaves the whole shape to the
rules, and so are the first events of every shape.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from mainstem.events.canonical import Event
from mainstem.warehouse.kinds import Typed, json_text, kept
from mainstem.warehouse.naming import engine_of
from mainstem.warehouse.rows import Row, RowOptions, RowsRefused, id_text_of
from mainstem.warehouse.schema import Columns, ColumnType

Json = Any
ToRows = Callable[[Event], tuple[str, Sequence[Row]]]
"""Returns the namespace and the rows of an event. Raises RowsRefused."""

How = Literal["time", "words", "str", "int", "float", "bool", "list", "constant"]
"""How values become a column's: a time or words whatever they say, by what they are, or the same for all."""

_WORTH_IT: Final = 50
"""So many events of a shape, and it is worked out: that costs as much as some dozens of events by the rules."""
_MAX_NODES: Final = 100_000
_MAX_WIDTH: Final = 2_000
"""Values of an event: beyond, it is left to the rules."""
_MARK: Final = "\ue000{}\ue001"
_MOMENT: Final = "2026-01-01T00:00:00.{:06d}Z"
_ANY_MARK: Final = re.compile("\ue000|2026-01-01T00:00:00\\.[0-9]{6}Z")
_TYPES: Final[Mapping[type, How]] = {str: "str", int: "int", float: "float", bool: "bool", list: "list"}


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Where one value of an event goes."""

    column: str
    at: int
    """Its place among the event's values; -1: it is the same for all events of the shape."""
    how: How
    keeps_blank: bool = False
    """An empty text is a value."""
    kind: ColumnType = "string"
    """Of a constant."""
    constant: Json = None


class TableLayout(msgspec.Struct, frozen=True, kw_only=True):
    """One of the rows that an event of a shape makes."""

    namespace: str
    table: str
    cells: tuple[Cell, ...]
    also: Columns
    """Columns without a value that the table has all the same."""


class Shape(msgspec.Struct, frozen=True, eq=False):
    """Where the values of events go that look alike."""

    layouts: tuple[TableLayout, ...]
    guards: tuple[int, ...]
    """Places of values which the rules have to see if they are empty."""
    width: int


class _Node:
    """What is known of an event's shape after some of its objects were looked at."""

    __slots__ = ("after", "opens", "pending", "seen", "shape", "width")

    def __init__(self, width: int, pending: tuple[int, ...]) -> None:
        self.width = width
        self.pending = pending
        self.opens = pending[0] if pending else -1
        self.after: dict[tuple[Any, ...], _Node] = {}
        self.seen = 0
        self.shape: Shape | Literal[False] | None = None
        """None: not known yet. False: the rules do it."""


class Shapes:
    """What is known of shapes; grows with what comes."""

    def __init__(self, to_rows: ToRows, typed: Typed, *, worth_it: int = _WORTH_IT) -> None:
        """
        Args:
            to_rows: the rules.
            typed: how the rules type a value that is not fixed by its column.
            worth_it: after so many events a shape is worked out.
        """
        self.typed = typed
        self._to_rows = to_rows
        self._worth_it = worth_it
        self._roots: dict[tuple[Any, ...], _Node] = {}
        self._nodes = 0

    def find(self, event: Event) -> tuple[Shape, list[Json]] | None:
        """Return an event's shape and its values, by place; None if the rules have to see the event."""
        message = event.message
        name = message.get("event") if event.type == "track" else None
        if name is not None and type(name) is not str:
            return None
        key = (event.source_id, event.type, name, *message, *map(type, message.values()))
        values = list(message.values())
        node = self._roots.get(key)
        if node is None:
            node = self._new_root(key, values)
            if node is None:
                return None
        while (at := node.opens) >= 0:
            inner = values[at]
            values[at] = None
            key = (*inner, *map(type, inner.values()))
            after = node.after.get(key)
            if after is None:
                after = self._grown(node, key, inner)
                if after is None:
                    return None
            values += inner.values()
            node = after
        shape = node.shape
        if not shape:
            if shape is None:
                self._look_at(node, event, values)
            return None
        for at in shape.guards:
            if not values[at]:
                return None
        return shape, values

    def _new_root(self, key: tuple[Any, ...], values: Sequence[Json]) -> _Node | None:
        if self._nodes >= _MAX_NODES:
            # Shapes that are gone make room for new ones.
            self._roots.clear()
            self._nodes = 0
        if len(values) > _MAX_WIDTH:
            return None
        self._nodes += 1
        node = self._roots[key] = _Node(len(values), _objects(values, 0))
        return node

    def _grown(self, node: _Node, key: tuple[Any, ...], inner: Mapping[str, Json]) -> _Node | None:
        width = node.width + len(inner)
        if width > _MAX_WIDTH or self._nodes >= _MAX_NODES:
            return None
        self._nodes += 1
        pending = (*node.pending[1:], *_objects(inner.values(), node.width))
        made = node.after[key] = _Node(width, pending)
        return made

    def _look_at(self, node: _Node, event: Event, values: Sequence[Json]) -> None:
        node.seen += 1
        if node.seen >= self._worth_it:
            node.shape = _worked_out(event, values, self._to_rows, self.typed) or False


def shapes_of(options: RowOptions, to_rows: ToRows) -> Shapes | None:
    """Return the fast way of rules; None where there is none: RudderStack's, whose last value of a column wins."""
    if options.compatibility == "rudderstack":
        return None
    return Shapes(to_rows, kept(engine_of(options.provider)))


def _objects(values: Any, start: int) -> tuple[int, ...]:
    return tuple(start + index for index, value in enumerate(values) if type(value) is dict)


# ------------------------------------------------------------ working out

_Found = Sequence[tuple[str, Row]]


def _worked_out(event: Event, values: Sequence[Json], to_rows: ToRows, typed: Typed) -> Shape | None:
    """Return the shape of an event, None if trying does not explain it."""
    integrations = event.message.get("integrations")
    if isinstance(integrations, dict) and any(isinstance(value, dict) for value in integrations.values()):
        return None  # options for this event: values that choose rules
    trial = _Trial(event, to_rows)
    words = trial.rows(lambda at: _MARK.format(at))
    moments = trial.rows(lambda at: _MOMENT.format(at))
    if words is None or moments is None or len(words) != len(moments):
        return None
    # Where a value that another column has already is left out, all values that are the same show it.
    same = trial.rows(lambda _: _MARK)
    if same is None or [row.data.keys() for _, row in same] != [row.data.keys() for _, row in words]:
        return None
    layouts = []
    for one, other in zip(words, moments, strict=True):
        layout = _layout(one, other, values)
        if layout is None:
            return None
        layouts.append(layout)
    guards: list[int] = []
    blank_kept: set[tuple[int, str]] = set()
    for at, value in enumerate(values):
        if type(value) not in (str, list) or at not in trial.marked:
            continue
        found = trial.rows(lambda place, at=at: "" if place == at else _MARK.format(place))  # type: ignore[misc]
        match _moved(layouts, found, at):
            case "others":
                return None
            case "this":
                guards.append(at)
            case kept:
                blank_kept |= {(number, column) for number, column in kept}
    layouts = [_keeping(layout, number, blank_kept) for number, layout in enumerate(layouts)]
    shape = Shape(tuple(layouts), tuple(guards), len(values))
    return shape if _agrees(shape, event, values, to_rows, typed) else None


class _Trial:
    """A message like an event's, with other values."""

    def __init__(self, event: Event, to_rows: ToRows) -> None:
        self._event = event
        self._to_rows = to_rows
        self.marked: set[int] = set()

    def rows(self, mark: Callable[[int], str]) -> _Found | None:
        """Return the rows of a message in which each value is what `mark` says of its place; None if it has none."""
        message = self._message(mark)
        try:
            namespace, rows = self._to_rows(msgspec.structs.replace(self._event, message=message))
        except RowsRefused:
            return None
        return [(namespace, row) for row in rows]

    def _message(self, mark: Callable[[int], str]) -> dict[str, Json]:
        fixed = {"type", "event"} if self._event.type == "track" else {"type"}
        top = dict(self._event.message)
        opened = [(top, False)]
        at = 0
        # In the order in which `Shapes.find` opens objects, so that places are the same.
        for inner, as_it_is in opened:
            for key, value in inner.items():
                if type(value) is dict:
                    copy = inner[key] = dict(value)
                    opened.append((copy, as_it_is or (inner is top and key == "integrations")))
                elif value is not None and not as_it_is and not (inner is top and key in fixed):
                    self.marked.add(at)
                    text = mark(at)
                    inner[key] = ([text] if text else []) if type(value) is list else text
                at += 1
        return top


def _layout(one: tuple[str, Row], other: tuple[str, Row], values: Sequence[Json]) -> TableLayout | None:
    namespace, row = one
    _, again = other
    if (
        row.table != again.table
        or row.data.keys() != again.data.keys()
        or row.columns.keys() != again.columns.keys()
    ):
        return None
    places: dict[str, int] = {}
    for at in range(len(values)):
        places[_MARK.format(at)] = places[json_text([_MARK.format(at)])] = at
    cells: list[Cell] = []
    for column, value in row.data.items():
        kinds = (row.columns[column], again.columns[column])
        place = places.get(value) if type(value) is str else None
        if place is None:
            if value != again.data[column] or kinds[0] != kinds[1] or _ANY_MARK.search(str(value)):
                return None
            cells.append(Cell(column=column, at=-1, how="constant", constant=value, kind=kinds[0]))
            continue
        how = _how(kinds, type(values[place]), in_list=value[0] == "[")
        if how is None:
            return None
        cells.append(Cell(column=column, at=place, how=how))
    also = {column: kind for column, kind in row.columns.items() if column not in row.data}
    return TableLayout(namespace=namespace, table=row.table, cells=tuple(cells), also=also)


def _how(kinds: tuple[ColumnType, ColumnType], found: type, *, in_list: bool) -> How | None:
    """Return how values are taken, from the types that a word and a time had."""
    match kinds:
        case ("datetime", "datetime"):
            return "time" if found is str else None
        case ("string", "datetime"):
            return _TYPES.get(found)
        case ("string", "string"):
            return "list" if in_list else "words" if found in _TYPES and found is not list else None
    return None


def _moved(
    layouts: Sequence[TableLayout], found: _Found | None, at: int
) -> Literal["others", "this"] | Sequence[tuple[int, str]]:
    """Tell what an empty value at a place changes: other values' columns, columns it had, or nothing (with the columns,
    by layout, in which it is an empty text)."""
    if found is None or len(found) != len(layouts):
        return "this"
    kept: list[tuple[int, str]] = []
    for number, (layout, (_, row)) in enumerate(zip(layouts, found, strict=True)):
        own = {cell.column for cell in layout.cells if cell.at == at}
        others = {
            cell.column: cell.constant if cell.at < 0 else _shown(cell)
            for cell in layout.cells
            if cell.column not in own
        }
        if others.keys() - row.data.keys():
            return "others"
        if others != {column: value for column, value in row.data.items() if column not in own}:
            return "this"
        left = own & row.data.keys()
        if any(row.data[column] != "" for column in left):
            return "this"
        kept += [(number, column) for column in left]
    return kept


def _shown(cell: Cell) -> str:
    mark = _MARK.format(cell.at)
    return json_text([mark]) if cell.how == "list" else mark


def _keeping(layout: TableLayout, number: int, kept: set[tuple[int, str]]) -> TableLayout:
    cells = [
        msgspec.structs.replace(cell, keeps_blank=True) if (number, cell.column) in kept else cell
        for cell in layout.cells
    ]
    return msgspec.structs.replace(layout, cells=tuple(cells))


def _agrees(shape: Shape, event: Event, values: Sequence[Json], to_rows: ToRows, typed: Typed) -> bool:
    """Tell whether an event comes out as the rules say."""
    if any(not values[at] for at in shape.guards):
        return True  # it is not done this way
    try:
        namespace, rows = to_rows(event)
    except RowsRefused:
        return False
    if len(rows) != len(shape.layouts):
        return False
    for row, layout in zip(rows, shape.layouts, strict=True):
        found = {
            cell.column: taken
            for cell in layout.cells
            if (taken := value_of(cell, None if cell.at < 0 else values[cell.at], typed)) is not None
        }
        if (namespace, row.table) != (layout.namespace, layout.table):
            return False
        if found != {column: (row.columns[column], value) for column, value in row.data.items()}:
            return False
    return True


def value_of(cell: Cell, value: Json, typed: Typed) -> tuple[ColumnType, Json] | None:
    """Return the type and the value that a column gets of an event's value; None if it gets none."""
    if cell.how == "constant":
        return cell.kind, cell.constant
    if value is None or value == "" or (type(value) is list and not value):
        return ("string", "") if value == "" and cell.keeps_blank else None
    if cell.how == "time":
        return "datetime", value
    if cell.how == "words":
        text = id_text_of(value)
        return ("text" if typed(text)[0] == "text" else "string"), text
    return typed(value)
