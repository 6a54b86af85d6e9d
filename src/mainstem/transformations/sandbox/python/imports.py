"""What Python transformations can import: a list of modules, and their libraries. Not the barrier, but a clear word.

RudderStack documents datetime, json, math, random, requests, time, urllib and python-dateutil
(https://www.rudderstack.com/docs/transformations/overview/); its samples use base64, hashlib, re and uuid too. Added
is what computes and does nothing else. Code can reach other modules through these: what keeps it from the machine is
the jail.

All are imported before the jail closes, for after that no file can be read.
"""

import codecs
import importlib
import importlib.resources
import io
import zoneinfo
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

MODULES: Final = (
    "__future__", "abc", "base64", "binascii", "bisect", "calendar", "collections", "collections.abc", "contextlib",
    "copy", "csv", "dataclasses", "dateutil", "dateutil.easter", "dateutil.parser", "dateutil.relativedelta",
    "dateutil.rrule", "dateutil.tz", "dateutil.utils", "decimal", "difflib", "enum", "fractions", "functools",
    "hashlib", "heapq", "hmac", "html", "ipaddress", "itertools", "json", "math", "numbers", "operator", "re",
    "statistics", "string", "struct", "textwrap", "types", "typing", "unicodedata", "urllib.parse", "warnings",
    "zlib", "zoneinfo",
)  # fmt: skip
"""Handed out as they are. `seeded.MODULES`, `requests`, `urllib` and `io` come on top, made here."""

_INNER: Final = ("_strptime", "copyreg")
"""What functions written in C import when they are called, by way of the caller's `__import__`, which is ours."""
_LATER: Final = (*_INNER, "encodings.idna", "encodings.punycode")
"""What the standard library imports only when it is needed, which is too late."""
_ENCODINGS: Final = (
    "ascii", "base64_codec", "big5", "cp1250", "cp1251", "cp1252", "cp437", "cp850", "euc_jp", "euc_kr", "gb18030",
    "gbk", "hex_codec", "iso8859_1", "iso8859_15", "iso8859_2", "koi8_r", "latin_1", "mac_roman", "quopri_codec",
    "raw_unicode_escape", "rot_13", "shift_jis", "unicode_escape", "utf_16", "utf_16_be", "utf_16_le", "utf_32",
    "utf_32_be", "utf_32_le", "utf_7", "utf_8", "utf_8_sig", "zlib_codec",
)  # fmt: skip

LoadLibrary = Callable[[str], ModuleType]


class Importer:
    """Stands for `__import__` in user code."""

    def __init__(
        self,
        made: Mapping[str, ModuleType],
        library_names: Sequence[str],
        load_library: LoadLibrary,
        on_random: Callable[[], None],
    ) -> None:
        """`made` are modules of ours, by full name; a library's name goes before any module's."""
        self._modules = {name: importlib.import_module(name) for name in MODULES}
        self._modules.update(made, io=_io())
        self._inner = {name: importlib.import_module(name) for name in _INNER}
        self._modules["urllib"] = _package("urllib", parse=self._modules["urllib.parse"])
        self._library_names = frozenset(library_names)
        self._load_library = load_library
        self._on_random = on_random

    def __call__(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - `__import__` has these names
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Return what `import name` or `from name import …` binds.

        Raises:
            ModuleNotFoundError: it can't be imported here.
        """
        if level:
            raise ImportError("relative imports don't work here: libraries are imported by name")
        top = name.partition(".")[0]
        if name in self._library_names:
            return self._load_library(name)
        module = self._modules.get(name) or self._inner.get(name)
        if module is None:
            raise ModuleNotFoundError(self._refusal(name, top), name=name)
        if top in _RANDOM:
            self._on_random()
        return module if fromlist or name in self._inner else self._modules[top]

    def _refusal(self, name: str, top: str) -> str:
        if top in ("urllib", "http", "urllib3", "aiohttp", "httpx", "socket"):
            return f"'{name}' can't be imported here; for HTTP there is 'requests'"
        tops = sorted({each.partition(".")[0] for each in self._modules} - {"__future__"})
        libraries = ", ".join(sorted(self._library_names)) or "none"
        return f"no '{name}' here. Modules: {', '.join(tops)}. Libraries: {libraries}"


_RANDOM: Final = frozenset({"random", "secrets", "statistics", "uuid"})


def warm() -> None:
    """Import everything that code may need, while files can still be read; changes how time zones are found."""
    for name in (*MODULES, *_LATER):
        importlib.import_module(name)
    for encoding in _ENCODINGS:
        # Looked up once, it stays in the interpreter's cache.
        codecs.lookup(encoding)
    _hold_zones()


def _hold_zones() -> None:
    """Keep all time zones in memory: their files are out of reach later, and not the same on every machine."""
    folder = importlib.resources.files("tzdata")
    held: dict[bytes, bytes] = {}
    zones: dict[str, bytes] = {}
    for key in folder.joinpath("zones").read_text("utf-8").split():
        data = folder.joinpath("zoneinfo", key).read_bytes()
        zones[key] = held.setdefault(data, data)

    def load(key: str) -> io.BytesIO:
        data = zones.get(key)
        if data is None:
            raise zoneinfo.ZoneInfoNotFoundError(f"No time zone found with key {key}")
        return io.BytesIO(data)

    zoneinfo.reset_tzpath(())
    # Where both packages read the tzdata package; there is no public place to give them bytes by name.
    importlib.import_module("zoneinfo._common").load_tzdata = load  # type: ignore[attr-defined]
    tz, zone_files = importlib.import_module("dateutil.tz.tz"), importlib.import_module("dateutil.zoneinfo")
    tz.TZPATHS = []  # type: ignore[attr-defined]
    bundled: Any = zone_files.ZoneInfoFile()
    bundled.zones = _Zones()
    zone_files.get_zonefile_instance._cached_instance = bundled


class _Zones:
    """What dateutil looks a zone up in: the interpreter's zones, of this year, and not its own of another."""

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return zoneinfo.ZoneInfo(key)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            return default


def _io() -> ModuleType:
    # `io.open` is what it is not for.
    return _package("io", StringIO=io.StringIO, BytesIO=io.BytesIO, TextIOWrapper=io.TextIOWrapper)


def _package(name: str, **members: Any) -> ModuleType:
    package = ModuleType(name)
    package.__dict__.update(members)
    return package
