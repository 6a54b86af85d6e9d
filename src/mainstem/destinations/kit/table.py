"""A mapping as a table: where each field of the vendor's comes from. Part of the mapping kit.

    FIELDS = Table(
        Row("email", *EMAIL, required=True, as_=trimmed_lower),
        Row("address.city", *CITY),
        Row("currency", *CURRENCY, default="USD"),
    )
    body = FIELDS.build(message)

A row takes the first of its sources that is `present` (not null, not an empty text), hands it to its functions one
after the other, and puts the result at its target; None and MISSING leave it out. The table is compiled once, to
closures that read straight down; `rows` feeds the reference page.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, final

from mainstem.destinations.kit.paths import MISSING
from mainstem.destinations.kit.refuse import refuse
from mainstem.destinations.kit.values import present

Json = Any
Change = Callable[[Json], Json]
_Read = Callable[[dict[str, Json]], Json]
_Put = Callable[[dict[str, Json], Json], None]


@final
class Row:
    """One field of a vendor's."""

    __slots__ = ("changes", "default", "required", "sources", "target", "text")

    def __init__(
        self,
        target: str | tuple[str, ...],
        *sources: str,
        as_: Change | tuple[Change, ...] = (),
        required: bool = False,
        default: Json = MISSING,
        text: str = "",
    ) -> None:
        """
        Args:
            target: dotted path in the result; a tuple of steps where a name itself has a dot.
            sources: dotted paths in the event, in order of preference.
            as_: what is done with the value; a function may raise by `refuse`, and leaves out by returning None.
            required: refuse the event, naming the field, when there is no value and no default.
            text: what the functions do, for the reference; their names without.
        """
        self.target = target
        self.sources = sources
        self.changes = as_ if isinstance(as_, tuple) else (as_,)
        self.required = required
        self.default = default
        self.text = text


@final
class Table:
    """Rows, compiled."""

    __slots__ = ("_compiled", "_rows")

    def __init__(self, *rows: Row) -> None:
        self._rows: Final = rows
        self._compiled: Final = tuple(
            (
                tuple(reader(source) for source in row.sources),
                row.changes,
                row.target if isinstance(row.target, str) and "." not in row.target else None,
                _putter(row.target),
                row,
            )
            for row in rows
        )

    def build(self, message: dict[str, Json], into: dict[str, Json] | None = None) -> dict[str, Json]:
        """Return the object that an event becomes.

        Args:
            into: put the fields in here instead of a new object.

        Raises:
            NotSent: a required field is missing (a Refusal that names its first source).
        """
        result: dict[str, Json] = {} if into is None else into
        for reads, changes, name, put, row in self._compiled:
            value: Json = MISSING
            for read in reads:
                value = read(message)
                # Most values are true or absent: only what is left costs a call.
                if value or (value is not None and value != "" and present(value)):
                    break
            else:
                value = row.default
                if value is MISSING:
                    if row.required:
                        _missing(row)
                    continue
            for change in changes:
                value = change(value)
            if value is not None and value is not MISSING:
                if name is not None:
                    result[name] = value
                else:
                    put(result, value)
            elif row.required:
                _missing(row)
        return result

    @property
    def rows(self) -> tuple[tuple[str, tuple[str, ...], str], ...]:
        """For `base.MappingTable`."""
        return tuple(
            (
                row.target if isinstance(row.target, str) else ".".join(row.target),
                row.sources,
                _told(row),
            )
            for row in self._rows
        )


def reader(path: str) -> _Read:
    """Return a function that reads a dotted path of an event; None where there is nothing."""
    steps = tuple(path.split("."))
    if any(step.isdigit() for step in steps):
        return _read_any(steps)
    if len(steps) == 1:
        (a,) = steps
        return lambda message: message.get(a)
    if len(steps) == 2:
        a, b = steps

        def read_two(message: dict[str, Json]) -> Json:
            inner = message.get(a)
            return inner.get(b) if type(inner) is dict else None

        return read_two
    if len(steps) == 3:
        a, b, c = steps

        def read_three(message: dict[str, Json]) -> Json:
            inner = message.get(a)
            if type(inner) is not dict:
                return None
            inner = inner.get(b)
            return inner.get(c) if type(inner) is dict else None

        return read_three
    return _read_any(steps)


def _read_any(steps: tuple[str, ...]) -> _Read:
    def read(message: dict[str, Json]) -> Json:
        value: Json = message
        for step in steps:
            if type(value) is dict:
                value = value.get(step)
            elif type(value) is list and step.isdigit() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        return value

    return read


def _putter(target: str | tuple[str, ...]) -> _Put:
    *way, last = target.split(".") if isinstance(target, str) else target

    if not way:

        def put_here(result: dict[str, Json], value: Json) -> None:
            result[last] = value

        return put_here

    def put_deep(result: dict[str, Json], value: Json) -> None:
        for step in way:
            inner = result.get(step)
            if type(inner) is not dict:
                inner = result[step] = {}
            result = inner
        result[last] = value

    return put_deep


def _missing(row: Row) -> None:
    names = " or ".join(f"`{source}`" for source in row.sources[:3]) or f"`{row.target}`"
    refuse(f"{names} is missing; it is required for `{row.target}`")


def _told(row: Row) -> str:
    said: list[str] = ["required"] if row.required else []
    if row.default is not MISSING:
        said.append(f"default {row.default!r}")
    said += [row.text] if row.text else _names(row.changes)
    return ", ".join(said)


def _names(changes: Iterable[Change]) -> list[str]:
    return [getattr(change, "__name__", "").strip("_<>").replace("_", " ") for change in changes]
