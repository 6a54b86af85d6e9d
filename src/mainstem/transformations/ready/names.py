"""Names of people: one field into first and last, or back.

No rule is right for every culture, so what is done is written in the settings and simple: spaces part the words,
a comma means "last, first", known titles and generations (Dr., Jr.) are set aside, a particle (van, de la, bin)
belongs to the last name, and a name of a single word is a first name.
"""

from typing import Any, Final, Literal

import msgspec

from mainstem.destinations.kit.paths import MISSING, compile_read, parse_path
from mainstem.transformations.base import About, Change, Kept, Result
from mainstem.transformations.ready.base import ReadySpec, Tools
from mainstem.transformations.ready.edit import check_writable, compile_edit, first_text, put, without

_TITLES: Final = (
    *("mr", "mrs", "ms", "miss", "mx", "dr", "prof", "sir", "lady", "lord", "rev", "hon"),
    *("herr", "frau", "ing", "mag", "mme", "mlle", "sr", "sra", "srta", "sig", "dott", "don", "doña"),
)
_GENERATIONS: Final = ("jr", "sr", "ii", "iii", "iv", "phd", "md", "esq", "cpa", "mba", "dds", "jd")
_PARTICLES: Final = (
    *("von", "vom", "van", "zu", "zum", "zur", "den", "der", "ten", "ter", "de", "del", "della", "di"),
    *("da", "das", "do", "dos", "du", "des", "la", "le", "lo", "los", "las", "af", "av"),
    *("bin", "ibn", "bint", "al", "el", "ap", "ben", "st"),
)


class SplitNameSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `split_name` is told."""

    name: str = "traits.name"
    """The field that holds the full name."""
    first: str = "traits.firstName"
    """Where the first name goes."""
    last: str = "traits.lastName"
    """Where the last name goes; nothing goes there for a name of one word."""
    order: Literal["first_last", "last_first"] = "first_last"
    """How the names are written. `last_first`: the first word is the last name (Chinese, Hungarian …)."""
    middle: Literal["first", "last", "drop"] = "first"
    """What names in the middle belong to; `drop` leaves them out."""
    titles: tuple[str, ...] = _TITLES
    """Words set aside in front of a name; case and a full stop do not matter."""
    generations: tuple[str, ...] = _GENERATIONS
    """Words set aside behind a name."""
    particles: tuple[str, ...] = _PARTICLES
    """Words that begin a last name of several words."""
    keep_name: bool = True
    """Whether the full name stays."""
    overwrite: bool = False
    """Whether fields that are there already are replaced; otherwise such a message stays as it is."""

    def __post_init__(self) -> None:
        for setting in ("name", "first", "last"):
            check_writable(setting, getattr(self, setting))
        if len({self.name, self.first, self.last}) < 3:
            raise ValueError("`last`: `name`, `first` and `last` must be three different fields")


class JoinNameSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `join_name` is told."""

    first: str = "traits.firstName"
    """The field with the first name."""
    last: str = "traits.lastName"
    """The field with the last name."""
    name: str = "traits.name"
    """Where the full name goes."""
    order: Literal["first_last", "last_first"] = "first_last"
    """Which comes first."""
    separator: str = " "
    """What stands between the two, if both are there."""
    keep_parts: bool = True
    """Whether first and last name stay."""
    overwrite: bool = False
    """Whether a full name that is there already is replaced."""

    def __post_init__(self) -> None:
        for setting in ("first", "last", "name"):
            check_writable(setting, getattr(self, setting))
        if len({self.name, self.first, self.last}) < 3:
            raise ValueError("`name`: `first`, `last` and `name` must be three different fields")


def split(text: str, settings: SplitNameSettings) -> tuple[str, str]:
    """Return (first, last) of a full name; either may be empty."""
    titles, generations = _words(settings.titles), _words(settings.generations)
    head, comma, tail = text.partition(",")
    if comma and not all(_word(word) in generations for word in tail.split()):
        # "Doe, Jane" is written last name first whatever the order; "Jane Doe, Jr." is not.
        last = _without_generations(head.split(), generations)
        first = _without_titles(tail.replace(",", " ").split(), titles)
        return " ".join(_without_generations(first, generations)), " ".join(last)
    words = text.replace(",", " ").split()
    words = _without_generations(_without_titles(words, titles), generations)
    if len(words) < 2:
        return " ".join(words), ""
    if settings.order == "last_first":
        return " ".join(words[1:]), words[0]
    cut = _last_begins(words, _words(settings.particles))
    first, last = words[:cut], words[cut:]
    if settings.middle == "drop":
        first = first[:1]
    elif settings.middle == "last":
        first, last = words[:1], words[1:]
    return " ".join(first), " ".join(last)


def _last_begins(words: list[str], particles: frozenset[str]) -> int:
    """Return the index of the last name's first word; there is always a first name before it."""
    cut = len(words) - 1
    while cut > 1 and _word(words[cut - 1]) in particles:
        cut -= 1
    return cut


def _without_titles(words: list[str], titles: frozenset[str]) -> list[str]:
    start = 0
    while start < len(words) - 1 and _word(words[start]) in titles:
        start += 1
    return words[start:]


def _without_generations(words: list[str], generations: frozenset[str]) -> list[str]:
    end = len(words)
    while end > 1 and _word(words[end - 1]) in generations:
        end -= 1
    return words[:end]


def _word(text: str) -> str:
    return text.replace(".", "").casefold()


def _words(texts: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(_word, texts))


def _make_split(settings: SplitNameSettings, _: Tools) -> Change:
    name_of = first_text((settings.name,))
    at_name, at_first, at_last = (
        compile_edit(path) for path in (settings.name, settings.first, settings.last)
    )
    there = [compile_read(parse_path(path)) for path in (settings.first, settings.last)]

    def split_name(message: dict[str, Any], _: About) -> Result:
        name = name_of(message)
        taken = not settings.overwrite and any(read(message) not in (MISSING, None, "") for read in there)
        if not name or taken:
            return Kept((message,))
        first, last = split(name, settings)
        split_up = message
        for edit, part in ((at_first, first), (at_last, last)):
            if part or settings.overwrite:
                split_up = put(split_up, edit, part or MISSING)
        if not settings.keep_name and split_up is not message:
            split_up = without(split_up, at_name)
        return Kept((split_up,))

    return split_name


def _make_join(settings: JoinNameSettings, _: Tools) -> Change:
    paths = (
        (settings.first, settings.last) if settings.order == "first_last" else (settings.last, settings.first)
    )
    parts_of = [first_text((path,)) for path in paths]
    at_parts = [compile_edit(path) for path in paths]
    there = compile_read(parse_path(settings.name))
    at_name = compile_edit(settings.name)

    def join_name(message: dict[str, Any], _: About) -> Result:
        parts = [text for read in parts_of if (text := read(message))]
        if not parts or (not settings.overwrite and there(message) not in (MISSING, None, "")):
            return Kept((message,))
        message = put(message, at_name, settings.separator.join(parts))
        if not settings.keep_parts:
            for edit in at_parts:
                message = without(message, edit)
        return Kept((message,))

    return join_name


SPLIT_NAME: Final = ReadySpec(
    name="split_name",
    title="Split a full name",
    text=(
        "Splits a full name into first and last name. `Doe, Jane` is read last name first; titles in front "
        "(Dr.) and generations behind (Jr.) are set aside; a particle (van, de la, bin) begins the last name; "
        "a name of one word is a first name, and a name in a script without spaces is one word. Names that "
        "are there already stay."
    ),
    group="shape",
    settings=SplitNameSettings,
    make=_make_split,
    idempotent=True,
)
JOIN_NAME: Final = ReadySpec(
    name="join_name",
    title="Join first and last name",
    text=(
        "Puts first and last name together into one field, in either order. One of them alone is the whole "
        "name. A full name that is there already stays."
    ),
    group="shape",
    settings=JoinNameSettings,
    make=_make_join,
    idempotent=True,
)
