"""Names of namespaces, tables and columns: from what people call things to what an engine takes. Pure.

event -> rows (**naming**) -> loader. Every rule here is RudderStack's, so that the tables of one are the tables of the
other: snake case as lodash writes it (https://lodash.com/docs/4.17.15#snakeCase), ASCII only, an underscore before a
digit and before a reserved word, upper case for Snowflake. `Namer.apart` adds what RudderStack lacks: names beyond
ASCII stay readable, and names that would become the same one stay two. docs/reference/warehouse-tables.md draws it.
"""

import hashlib
import re
import unicodedata
from typing import Final

import msgspec

from mainstem.warehouse import reserved

BUILT_IN_TABLES: Final = frozenset(
    [
        "tracks",
        "users",
        "identifies",
        "pages",
        "screens",
        "groups",
        "aliases",
        "merges",
        "rudder_discards",
        "rudder_identity_mappings",
        "rudder_identity_merge_rules",
        "_mainstem_loads",
        "_mainstem_stage",
        "_mainstem_locks",
    ]
)
"""Tables that an event of that name must not become."""
_DIGEST: Final = 8
"""Hexadecimal digits of a suffix."""


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is called names, and what it calls its types: differences are data."""

    upper_case: bool = False
    max_name: int = 127
    """Characters of a name in RudderStack; 0: any number."""
    words: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    """No column may begin so, in any case of letters."""
    folds_accents: bool = False
    """é and e are the same in a name (MySQL)."""
    ascii_tables: bool = False
    """Tables can't be named beyond ASCII, not even quoted (Hive's catalogs)."""
    json_type: str = "string"
    """The type of a column that was asked to be JSON."""
    json_paths: bool = False
    """RudderStack keeps paths as JSON here."""
    text_over: int = 0
    """A string of more UTF-16 units is a `text`; 0: there is no such type."""
    event_type: str = ""
    """The type of the column with the whole event, where it is not that of a text."""
    violations_type: str = ""
    """The type of `violationErrors`, where it is not that of its value."""
    arrays: bool = False
    """It has columns of arrays. Rows have them as JSON all the same: a column of arrays takes one type of items."""
    lake: bool = False
    """Files without an engine: `users` has no times."""
    users: bool = True
    """There is a `users` table."""
    loaded_at: bool = False
    """`loaded_at` beside `uuid_ts`."""

    @property
    def short(self) -> int:
        """Texts of fewer characters are no `text`."""
        return self.text_over // 2 or 1 << 62


ENGINES: Final[dict[str, Engine]] = {
    "postgres": Engine(
        max_name=63,
        event_type="json",
        violations_type="json",
        words=reserved.POSTGRES,
        json_type="json",
        json_paths=True,
    ),
    "rs": Engine(
        words=reserved.REDSHIFT,
        json_type="json",
        json_paths=True,
        text_over=512,
    ),
    "bq": Engine(
        words=reserved.BIGQUERY,
        prefixes=reserved.BIGQUERY_PREFIXES,
        json_paths=True,
        loaded_at=True,
    ),
    "snowflake": Engine(
        upper_case=True,
        event_type="json",
        violations_type="json",
        words=reserved.SNOWFLAKE,
        json_type="json",
        json_paths=True,
    ),
    "snowpipe_streaming": Engine(
        upper_case=True,
        event_type="json",
        violations_type="json",
        words=reserved.SNOWFLAKE,
        json_type="json",
        json_paths=True,
        users=False,
    ),
    "mysql": Engine(max_name=63, words=reserved.POSTGRES, folds_accents=True),
    "clickhouse": Engine(arrays=True),
    "mssql": Engine(event_type="json", words=reserved.SQL_SERVER),
    "azure_synapse": Engine(event_type="json", words=reserved.SQL_SERVER),
    "deltalake": Engine(words=reserved.DATABRICKS, ascii_tables=True),
    "s3_datalake": Engine(max_name=0, words=reserved.HIVE, ascii_tables=True, lake=True),
    "gcs_datalake": Engine(max_name=0, words=reserved.BIGQUERY, ascii_tables=True, lake=True),
    "azure_datalake": Engine(max_name=0, words=reserved.SQL_SERVER, ascii_tables=True, lake=True),
}
"""By RudderStack's name of a provider. MySQL, which it has not, is named as Postgres is."""
_BORROWED: Final = {
    "duckdb": "postgres",
    "iceberg": "s3_datalake",
    "parquet": "s3_datalake",
}
"""Our engines that RudderStack has not: whose rules hold."""


def engine_of(provider: str) -> Engine:
    """Return the rules for an engine; those of Postgres if it is unknown (a third party's)."""
    provider = provider.lower()
    return ENGINES.get(_BORROWED.get(provider, provider), ENGINES["postgres"])


# ------------------------------------------------------------ words, as lodash finds them

_UPPER: Final = "A-Z\u00c0-\u00d6\u00d8-\u00de"
_LOWER: Final = "a-z\u00df-\u00f6\u00f8-\u00ff"
_BREAK: Final = (
    "\u00ac\u00b1\u00d7\u00f7\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\u00bf\u2000-\u206f\ufeff\u1680\u180e\u3000"
)
_ASTRAL: Final = "\ud800-\udfff\U00010000-\U0010ffff"
_DINGBAT: Final = "\u2700-\u27bf"
_COMBINING: Final = "\u0300-\u036f\ufe20-\ufe2f\u20d0-\u20ff"
_MISC: Final = f"[^{_ASTRAL}{_BREAK}0-9{_DINGBAT}{_LOWER}{_UPPER}]"
_APOS: Final = "['\u2019]"
_MISC_LOWER: Final = f"(?:[{_LOWER}]|{_MISC})"
_MISC_UPPER: Final = f"(?:[{_UPPER}]|{_MISC})"
_CONTRACTED: Final = f"(?:{_APOS}(?:d|ll|m|re|s|t|ve))?"
_CONTRACTED_UPPER: Final = f"(?:{_APOS}(?:D|LL|M|RE|S|T|VE))?"
_MODIFIER: Final = f"(?:[{_COMBINING}]|[\U0001f3fb-\U0001f3ff])?"
_REGIONAL: Final = "[\U0001f1e6-\U0001f1ff]{2}"
_PAIR: Final = "[\U00010000-\U0010ffff]"
_SEQUENCE: Final = (
    f"[\ufe0e\ufe0f]?{_MODIFIER}(?:\u200d(?:[^{_ASTRAL}]|{_REGIONAL}|{_PAIR})[\ufe0e\ufe0f]?{_MODIFIER})*"
)
_EMOJI: Final = f"(?:[{_DINGBAT}]|{_REGIONAL}|{_PAIR}){_SEQUENCE}"


_WORDS: Final = re.compile(
    "|".join(
        (
            f"[{_UPPER}]?[{_LOWER}]+{_CONTRACTED}(?=[{_BREAK}]|[{_UPPER}]|$)",
            f"{_MISC_UPPER}+{_CONTRACTED_UPPER}(?=[{_BREAK}]|[{_UPPER}]{_MISC_LOWER}|$)",
            f"[{_UPPER}]?{_MISC_LOWER}+{_CONTRACTED}",
            f"[{_UPPER}]+{_CONTRACTED_UPPER}",
            r"[0-9]*(?:1ST|2ND|3RD|(?![123])[0-9]TH)(?=\b|[a-z_])",
            r"[0-9]*(?:1st|2nd|3rd|(?![123])[0-9]th)(?=\b|[A-Z_])",
            "[0-9]+",
            _EMOJI,
        )
    )
)
"""lodash's words: numbers are words of their own, ordinals (`1st`) aside."""
_WORDS_WITH_NUMBERS: Final = re.compile(
    "|".join(
        (
            f"[0-9]*[{_UPPER}]?{_MISC_LOWER}+[0-9]*{_CONTRACTED}",
            f"[0-9]*{_MISC_UPPER}+[0-9]*{_CONTRACTED_UPPER}(?=[{_BREAK}]|[{_UPPER}]{_MISC_LOWER}|$)",
            f"[0-9]*[{_UPPER}]+[0-9]*{_CONTRACTED_UPPER}",
            "[0-9]+",
            _EMOJI,
        )
    )
)
"""The same, but numbers belong to the letters beside them: `24H`, `walk500`."""
_NOT_WORD: Final = re.compile("[^0-9A-Za-z]+")
_APOSTROPHES: Final = re.compile(_APOS)


def words(text: str, *, divide_numbers: bool) -> list[str]:
    """Return the words of a text: at spaces and symbols, and where small letters become capitals.

    Args:
        divide_numbers: numbers are words of their own.
    """
    return (_WORDS if divide_numbers else _WORDS_WITH_NUMBERS).findall(text)


def snake_case(text: str, *, divide_numbers: bool) -> str:
    """Return a text's words in lower case, joined by underscores."""
    found = words(_APOSTROPHES.sub("", text), divide_numbers=divide_numbers)
    return "_".join(found).lower()


# ------------------------------------------------------------ names


def transformed(text: str, *, divide_numbers: bool) -> str:
    """Return a name of ASCII words, before an engine's own rules; "" if nothing of it is ASCII."""
    stripped = text.lstrip("_")
    leading = text[: len(text) - len(stripped)]
    name = "_".join(part for part in _NOT_WORD.split(stripped) if part)
    if not name:
        return ""
    name = snake_case(name, divide_numbers=divide_numbers)
    if leading:
        return leading + name
    return f"_{name}" if name[0].isdigit() else name


_NOT_BLENDO: Final = re.compile(r"[^\\0-9A-Za-z_$]")


def blendo_column(text: str) -> str:
    """Return a column's name as Blendo wrote it: lower case, what is no letter an underscore."""
    name = _NOT_BLENDO.sub("_", text)
    if name and not (name[0].isalpha() or name[0] == "_"):
        name = f"_{name}"
    return name.lower()


def blendo_table(text: str) -> str:
    """Return a table's name as Blendo wrote it."""
    return text.strip().lower()


def namespace_of(source_name: str, provider: str, *, configured: str = "") -> str:
    """Return the namespace (schema, dataset, database) of a source's tables.

    Args:
        configured: what the settings say; its words are kept as they are.
    """
    engine = engine_of(provider)
    given = configured.strip()
    if given:
        name = _NOT_WORD.sub("_", given).lower() if given.isascii() else ""
        name = f"_{name}" if name[:1].isdigit() else name
    else:
        name = transformed(source_name, divide_numbers=True)
    if not name.strip("_"):
        text = given or source_name.strip()
        name = f"source_{digest(text)}" if text else "stringempty"
    name = name[: engine.max_name or 127]
    if name in engine.words or name in reserved.NAMESPACES:
        name = f"_{name}"
    return name.upper() if engine.upper_case else name


def digest(text: str) -> str:
    """Return the suffix that keeps a name apart from others: always the same for a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]


class Namer:
    """The names of one warehouse's tables and columns."""

    def __init__(
        self,
        engine: Engine,
        *,
        as_rudderstack: bool,
        divide_numbers: bool = False,
        blendo: bool = False,
        escape_words: bool = True,
        max_name: int = 0,
    ) -> None:
        """
        Args:
            as_rudderstack: names beyond ASCII collapse, and different ones may become the same.
            max_name: bytes that the engine takes; 0 is what RudderStack allows it.
        """
        self._engine = engine
        self._as_rudderstack = as_rudderstack
        self._divide_numbers = divide_numbers
        self._blendo = blendo
        self._escape_words = escape_words or not as_rudderstack
        self._words = engine.words if escape_words else frozenset()
        self._limit = max_name or engine.max_name or (0 if as_rudderstack else 255)

    def column(self, path: tuple[str, ...]) -> str:
        """Return the name of a column for a path of keys; "" if RudderStack can't name it."""
        text = "_".join(path)
        if self._blendo:
            return self._safe(blendo_column(text), text)
        if self._as_rudderstack:
            return self._safe(transformed(text, divide_numbers=self._divide_numbers), text)
        name = self._safe(self._readable(text, "\x1f".join(path), ascii_only=False), text)
        if not name.startswith(self._engine.prefixes):
            return name
        name = f"_{name}"
        return self.apart(name, path) if len(name.encode("utf-8", "surrogatepass")) > self._limit else name

    def event(self, name: str) -> str:
        """Return what stands in the column `event`."""
        if self._blendo:
            return blendo_table(name)
        if self._as_rudderstack:
            return transformed(name, divide_numbers=self._divide_numbers)
        return self._readable(name, name, ascii_only=self._engine.ascii_tables)

    def table(self, name: str) -> str:
        """Return the name of an event's table; "" if RudderStack can't name it."""
        event = self.event(name)
        if not event:
            return ""
        if self._escape_words and event.lower() in BUILT_IN_TABLES:
            event = f"_{event}"
        return self._safe(event, name)

    def fixed(self, name: str) -> str:
        """Return the name of a column or table of our own, as the engine spells it."""
        return self.cased(f"_{name}" if name in self._words else name)

    def cased(self, name: str) -> str:
        """Return a name in the engine's case."""
        return name.upper() if self._engine.upper_case else name

    def apart(self, name: str, path: tuple[str, ...]) -> str:
        """Return another name for a path whose own is taken in its row."""
        suffix = f"_{digest(chr(31).join(path))}"
        if self._limit:
            name = _cut(name, self._limit - len(suffix))
        return name + (suffix.upper() if self._engine.upper_case else suffix)

    def beside(self, name: str, path: tuple[str, ...]) -> str:
        """Return the name for a key that is called like a column of ours: `_user_id`."""
        if self._limit and len(name.encode("utf-8", "surrogatepass")) >= self._limit:
            return self.apart(name, path)
        return f"_{name}"

    def _safe(self, name: str, original: str) -> str:
        if not name:
            return ""
        if self._as_rudderstack:
            name = name[: self._limit] if self._limit else name
        elif self._limit and len(name.encode("utf-8", "surrogatepass")) > self._limit:
            name = f"{_cut(name, self._limit - _DIGEST - 1)}_{digest(original)}"
        if name.lower() in self._words:
            name = f"_{name}"
        return name.upper() if self._engine.upper_case else name

    def _readable(self, text: str, original: str, *, ascii_only: bool) -> str:
        """Return a name that keeps letters of every script, and a suffix where symbols with a meaning are lost."""
        if text.isascii():
            name = transformed(text, divide_numbers=self._divide_numbers)
            lost = _MEANT.search(text) is not None or "$" in text[1:]
        else:
            text = unicodedata.normalize("NFC", text)
            kinds = [unicodedata.category(char) for char in text]
            kept = "".join(char if kind[0] in "LNM" else "_" for char, kind in zip(text, kinds, strict=True))
            stripped = kept.strip("_")
            leading = text[: len(text) - len(text.lstrip("_"))]
            parts = [
                snake_case(part, divide_numbers=self._divide_numbers) or part.lower()
                for part in stripped.split("_")
                if part
            ]
            name = "_".join(parts)
            if name and (leading or name[0].isdigit()):
                name = (leading or "_") + name
            lost = any(kind[0] in "SC" for kind in kinds) or _MEANT.search(text) is not None
            # snake_case leaves out what lodash does not know: marks and letters beyond the first planes.
            letters = sum(kind[0] in "LNM" for kind in kinds)
            lost = lost or sum(char != "_" for char in name) < letters
            lost = lost or (self._engine.folds_accents and not name.isascii())
            if ascii_only and not name.isascii():
                plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
                name, lost = "_".join(part for part in plain.split("_") if part), True
                name = f"_{name}" if name[:1].isdigit() else name
        if not name.strip("_"):
            return f"unnamed_{digest(original)}"
        return f"{name}_{digest(original)}" if lost else name


_MEANT: Final = re.compile(r"[+<>=%#*^~\x00-\x08\x0e-\x1f\x7f]")
"""Symbols that make one name another (C++ and C#, "over 50 %" and "over 50"), unlike those that only divide words."""


def _cut(name: str, limit: int) -> str:
    """Return as much of a name as fits in so many bytes."""
    return name.encode("utf-8", "surrogatepass")[:limit].decode("utf-8", "ignore")
