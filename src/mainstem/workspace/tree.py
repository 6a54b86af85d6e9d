"""From text to plain values with line numbers: the first half of reading a workspace document.

YAML 1.2 (ruamel.yaml composes the nodes; the values are made here, so that duplicate keys, foreign tags,
recursion and alias bombs are problems with a line, not exceptions) and JSON. Every mapping has text keys;
values are None, bool, int, float, str, list and dict; dates stay text.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from mainstem.secret import Secret
from mainstem.workspace.report import Path, Report

MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024
_MAX_VALUES: Final = 300_000
"""Values after aliases are followed: nine lines of YAML can say a billion."""
_MAX_DEPTH: Final = 64
_MAX_INT_DIGITS: Final = 19

_CODE_SECTIONS: Final = ("transformations", "libraries")

_TAG: Final = "tag:yaml.org,2002:"
_REFERENCE: Final = re.compile(r"\$(?:(\$)\{|\{([^}]*)\})")
_NAME: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_INT: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


class Tree(msgspec.Struct, frozen=True):
    """A document's value, and the line of each place in it."""

    value: Any
    lines: dict[Path, int]


def is_json(text: str) -> bool:
    """Whether the text means to be JSON: a YAML workspace begins with a key or a comment."""
    return text.lstrip("\ufeff \t\r\n")[:1] in ("{", "[")


def decode_text(data: bytes, report: Report) -> str:
    """Return the text of a document.

    Raises:
        WorkspaceInvalid: it is too large or not UTF-8.
    """
    text = ""
    if len(data) > MAX_DOCUMENT_BYTES:
        report.at_line(None, f"is {len(data)} bytes long; at most {MAX_DOCUMENT_BYTES} are read")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            report.at_line(data[: error.start].count(b"\n") + 1, "is not UTF-8 text")
    report.raise_if_failed()
    return text


def parse_json(text: str, report: Report) -> Any:
    """Return the value of a JSON text.

    Raises:
        WorkspaceInvalid: it is not JSON.
    """
    try:
        return msgspec.json.decode(text.lstrip("\ufeff").encode("utf-8"))
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        report.at_line(None, f"is not JSON: {error}")
    except RecursionError:
        report.at_line(None, "is nested too deeply")
    report.raise_if_failed()
    return None


def parse_yaml(text: str, origin: str) -> tuple[Tree, Report]:
    """Return the tree of a YAML text, and the report to go on with.

    Raises:
        WorkspaceInvalid: it is not YAML. Duplicate keys and foreign tags are in the report instead.
    """
    report = Report(origin)
    node: Node | None = None
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except RecursionError:
        report.at_line(None, "is nested too deeply")
    except MarkedYAMLError as error:
        # Not the error's own text: it quotes the line, and with it perhaps a password.
        mark = error.problem_mark or error.context_mark
        reason = error.problem or error.context or "is not YAML"
        if mark and "${" in "".join(text.splitlines()[mark.line : mark.line + 1]):
            reason += '; inside {…} and […] a reference needs quotes: "${NAME}"'
        report.at_line(mark.line + 1 if mark else None, f"is not YAML: {reason}")
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        report.at_line(line, "is not YAML: special characters are not allowed")
    except (YAMLError, ValueError, TypeError, AttributeError, LookupError, AssertionError) as error:
        # The parser's own slips on broken texts (a malformed %YAML directive, a bad escape).
        report.at_line(None, f"is not YAML ({type(error).__name__})")
    report.raise_if_failed()
    lines: dict[Path, int] = {}
    report = Report(origin, lines)
    value = _Reader(report, lines).value(node, ()) if node is not None else None
    return Tree(value, lines), report


class _Reader:
    """Makes plain values of nodes."""

    def __init__(self, report: Report, lines: dict[Path, int]) -> None:
        self._report = report
        self._lines = lines
        self._left = _MAX_VALUES
        self._full = False

    def value(self, node: Node, path: Path) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        self._left -= 1
        if self._left < 0:
            if not self._full:
                self._full = True
                self._report.error(path, f"is too large: more than {_MAX_VALUES} values, aliases followed")
            return None
        if len(path) > _MAX_DEPTH:
            self._report.error(path[:4], "is nested too deeply, or contains itself")
            self._left = 0
            self._full = True
            return None
        tag = str(node.tag)
        if isinstance(node, MappingNode) and tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and tag == _TAG + "seq":
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            return self._scalar(node, tag, path)
        self._report.error(path, f"has the tag {tag!r}, which means nothing here")
        return None

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._report.error(path, "has a key that is not a plain word")
                continue
            key = str(key_node.value)
            if _bad_text(key):
                self._report.error(path, "has a key with half a surrogate pair")
                continue
            place = (*path, key)
            if key_node.tag == _TAG + "merge":
                for given in self._merge(value_node, path):
                    merged = {**given, **merged}
                continue
            line = key_node.start_mark.line + 1
            if key in own:
                self._report.error(
                    place, f"is given twice, in line {self._lines[place]} and again in line {line}"
                )
                continue
            self._lines[place] = line
            own[key] = self.value(value_node, place)
        return {**merged, **own}

    def _merge(self, node: Node, path: Path) -> list[dict[str, Any]]:
        given = node.value if isinstance(node, SequenceNode) else [node]
        values = [self.value(item, path) for item in given]
        if all(isinstance(value, dict) for value in values):
            return values
        self._report.error(path, "merges (<<) something that is not a mapping")
        return []

    def _scalar(self, node: ScalarNode, tag: str, path: Path) -> Any:
        text = str(node.value)
        if _bad_text(text):
            self._report.error(path, "has half a surrogate pair, which is no character")
            return None
        kind = tag.removeprefix(_TAG)
        if kind in ("str", "timestamp", "value"):
            return text
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in ("int", "float"):
            value = number(text)
            if value is None:
                self._report.error(path, "is not a number that fits; put text in quotes")
            return value
        self._report.error(path, f"has the tag {tag!r}, which means nothing here")
        return None


def number(text: str) -> int | float | None:
    """Return the number a plain YAML 1.2 scalar stands for; None if it is none, or beyond 64 bits."""
    plain = text.replace("_", "")
    if _INT.fullmatch(plain):
        if len(plain.lstrip("+-0")) > _MAX_INT_DIGITS:
            return None
        value = int(plain, 0) if plain[:2] in ("0x", "0o") else int(plain)
        return value if -(2**63) <= value < 2**63 else None
    if _FLOAT.fullmatch(plain):
        real = float(plain)
        return real if math.isfinite(real) else None
    return None


def _bad_text(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


# ---------------------------------------------------------------- environment references


def resolve_references(value: Any, env: Mapping[str, str], report: Report, path: Path = ()) -> Any:
    """Return `value` with `${NAME}` and `${NAME:-default}` replaced from `env`, each such text a `Secret`.

    `$${` stands for a plain `${`. A default is not secret by itself, but the text it stands in is treated
    alike, so that what is shown does not depend on the machine. Code stays as it is: `${…}` is JavaScript's too.
    """
    if len(path) == 3 and path[0] in _CODE_SECTIONS and path[2] == "code":
        return value
    if isinstance(value, str):
        return _resolve(value, env, report, path) if "${" in value else value
    if isinstance(value, dict):
        return {key: resolve_references(item, env, report, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve_references(item, env, report, (*path, index)) for index, item in enumerate(value)]
    return value


def _resolve(text: str, env: Mapping[str, str], report: Report, path: Path) -> str | Secret:
    referred = False

    def replace(match: re.Match[str]) -> str:
        nonlocal referred
        if match[1]:
            return "${"
        referred = True
        parts = _NAME.fullmatch(match[2])
        if parts is None:
            report.error(
                path, "has a malformed reference; write ${NAME}, ${NAME:-default}, or $${ for a plain ${"
            )
            return ""
        name, default = parts[1], parts[2]
        found = env.get(name) or default
        if found is None:
            state = "is empty" if name in env else "is not set"
            report.error(path, f"the environment variable {name} {state}")
            return ""
        if _bad_text(found):
            report.error(path, f"the environment variable {name} is not UTF-8 text")
            return ""
        report.hide(found)
        return found

    resolved = _REFERENCE.sub(replace, text)
    return Secret(resolved) if referred else resolved
