"""Decodes plain values into msgspec structs and reports every mistake, where msgspec stops at the first."""

import operator
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import inspect

from mainstem.secret import Secret
from mainstem.workspace.report import Path, Report, nearest
from mainstem.workspace.tree import number

Decoded = dict[Path, msgspec.Struct]
"""Every struct whose required fields are right, by its place. Of a mistaken optional field it has the default,
so that one mistake does not hide the others; the report keeps it from being used."""

_YAML_1_1_TRUTHS: Final = ("yes", "no", "on", "off", "true", "false")
_BAD: Final = object()
"""Stands for a value that has been reported."""


def decode(kind: type[msgspec.Struct], value: Any, report: Report) -> Decoded:
    """Decode `value` as a `kind` and return the structs in it, the whole one at `()`.

    A `Secret` (text that came from the environment) becomes the text, number or truth value that the field
    wants; inside free-form mappings it stays a `Secret`.
    """
    decoder = _Decoder(report)
    decoder.value(_info(kind), value, ())
    return decoder.decoded


@lru_cache(maxsize=64)
def _info(kind: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(kind)


class _Decoder:
    def __init__(self, report: Report) -> None:
        self._report = report
        self.decoded: Decoded = {}

    def value(self, kind: inspect.Type, value: Any, path: Path) -> Any:
        match kind:
            case inspect.Metadata():
                return self.value(kind.type, value, path)
            case inspect.StructType():
                return self._struct(kind, value, path)
            case inspect.VarTupleType():
                return self._list(kind, value, path)
            case inspect.DictType():
                return value if isinstance(value, dict) else self._wrong(path, "a mapping", value)
            case inspect.UnionType():
                return self._union(kind, value, path)
            case inspect.LiteralType():
                return self._literal(kind, value, path)
            case inspect.StrType():
                return self._text(kind, value, path)
            case inspect.BoolType():
                return self._truth(value, path)
            case inspect.IntType() | inspect.FloatType():
                return self._number(kind, value, path)
        raise TypeError(f"the document's structs have a type that is not decoded: {kind!r}")

    def _struct(self, kind: inspect.StructType, value: Any, path: Path) -> Any:
        if not isinstance(value, dict):
            return self._wrong(path, "a mapping", value)
        fields = {field.encode_name: field for field in kind.fields}
        for key in value:
            if key not in fields:
                self._report.error((*path, key), f"is an unknown field{nearest(key, fields)}")
        good = True
        arguments: dict[str, Any] = {}
        for name, field in fields.items():
            given = value.get(name)
            if given is None:  # also `filters:` with nothing after it
                if field.required:
                    self._report.error((*path, name), "is missing")
                    good = False
                continue
            decoded = self.value(field.type, given, (*path, name))
            if decoded is not _BAD:
                arguments[field.name] = decoded
            elif field.required:
                good = False
        if not good:
            return _BAD
        made = self.decoded[path] = kind.cls(**arguments)
        return made

    def _list(self, kind: inspect.VarTupleType, value: Any, path: Path) -> Any:
        if not isinstance(value, list):
            return self._wrong(path, "a list", value)
        items = [self.value(kind.item_type, item, (*path, index)) for index, item in enumerate(value)]
        return tuple(item for item in items if item is not _BAD)

    def _union(self, kind: inspect.UnionType, value: Any, path: Path) -> Any:
        """Only unions that the value's own form decides: a list or one, a number or text, something or nothing."""
        options: Sequence[inspect.Type] = [
            option for option in kind.types if not isinstance(option, inspect.NoneType)
        ]
        lists = [option for option in options if isinstance(option, inspect.VarTupleType)]
        others = [option for option in options if not isinstance(option, inspect.VarTupleType)]
        if isinstance(value, int) and not isinstance(value, bool):
            others.sort(key=lambda option: not isinstance(option, inspect.IntType))
        else:
            others.sort(key=lambda option: isinstance(option, inspect.IntType))
        chosen = lists if (isinstance(value, list) and lists) or not others else others
        return self.value(chosen[0], value, path)

    def _literal(self, kind: inspect.LiteralType, value: Any, path: Path) -> Any:
        text = value.reveal() if isinstance(value, Secret) else value
        if text in kind.values:
            return text
        names = [str(name) for name in kind.values]
        if isinstance(value, str):
            self._report.error(
                path, f"{value[:100]!r} is not one of {', '.join(names)}{_meant(value, names)}"
            )
        else:
            self._report.error(path, f"expected one of {', '.join(names)}")
        return _BAD

    def _text(self, kind: inspect.StrType, value: Any, path: Path) -> Any:
        text = value.reveal() if isinstance(value, Secret) else value
        if isinstance(text, bool | int | float):
            self._report.error(path, f"expected text, got {_form(text)}; put it in quotes")
            return _BAD
        if not isinstance(text, str):
            return self._wrong(path, "text", value)
        if kind.pattern is not None and re.fullmatch(kind.pattern, text) is None:
            self._report.error(
                path, "is not an id: 1 to 128 letters, digits, '.', '_' or '-', first a letter or digit"
            )
            return _BAD
        return text

    def _truth(self, value: Any, path: Path) -> Any:
        if isinstance(value, Secret) and value.reveal() in ("true", "false"):
            return value.reveal() == "true"
        if isinstance(value, str) and value.lower() in _YAML_1_1_TRUTHS:
            self._report.error(path, f"expected true or false, got the text {value!r}")
            return _BAD
        return value if isinstance(value, bool) else self._wrong(path, "true or false", value)

    def _number(self, kind: inspect.IntType | inspect.FloatType, value: Any, path: Path) -> Any:
        given = number(value.reveal()) if isinstance(value, Secret) else value
        whole = isinstance(kind, inspect.IntType)
        if isinstance(given, bool) or not isinstance(given, int if whole else int | float):
            return self._wrong(path, "a whole number" if whole else "a number", value)
        for bound, words, holds in (
            (kind.gt, "more than", operator.gt),
            (kind.ge, "at least", operator.ge),
            (kind.lt, "less than", operator.lt),
            (kind.le, "at most", operator.le),
        ):
            if bound is not None and not holds(given, bound):
                self._report.error(path, f"must be {words} {bound:g}")
                return _BAD
        return given if whole else float(given)

    def _wrong(self, path: Path, expected: str, value: Any) -> Any:
        self._report.error(path, f"expected {expected}, got {_form(value)}")
        return _BAD


def _meant(word: str, names: Sequence[str]) -> str:
    hint = nearest(word, names)
    return hint if "did you mean" in hint else ""


def _form(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str() | Secret():
            return "text"
        case list():
            return "a list"
        case _:
            return "a mapping"
