"""Handlebars, as far as messages to people need it (https://handlebarsjs.com/guide/, 4.7). Part of the mapping kit.

    {{name}} {{properties.plan}} {{items.[0].id}}    a value; `&` and the like are escaped for HTML
    {{{name}}} {{&name}}                             a value as it is
    {{#if vip}}…{{else}}…{{/if}} {{#unless …}}…      by truth: an empty text, list and 0 are not
    {{#each items}}{{this.id}} {{@index}}{{/each}}   for every element, or member (`{{@key}}`)
    {{! a comment }}

A value that is not there is an empty text. Partials, other helpers and their arguments are not there.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

from mainstem.destinations.kit.values import json_text, text

Json = Any
Scope = Mapping[str, Json]
Render = Callable[[Scope], str]

_TAG: Final = re.compile(r"\{\{\{(?P<raw>.*?)\}\}\}|\{\{(?P<tag>!--.*?--|.*?)\}\}", re.DOTALL)
_BLOCK: Final = re.compile(r"#\s*(if|unless|each)\s+(\S+)")
_PATH: Final = re.compile(r"@?[^\s{}()#/^&!>'\"=|]+")
_HTML: Final = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        '"': "&quot;",
        "'": "&#x27;",
        "`": "&#x60;",
        "=": "&#x3D;",
    }
)


class TemplateInvalid(ValueError):
    """The text is no template of this language; the text says why."""


@final
class Listed(dict[str, Json]):
    """An object that reads as `key: value ` for each member when a template names it as a whole."""

    def __str__(self) -> str:
        return "".join(f"{key}: {_shown(value)} " for key, value in self.items())


def compile_message(template: str) -> Render:
    """Return a function that fills in a template.

    Raises:
        TemplateInvalid: a tag that this language does not have.
    """
    pieces, rest = _parse(_tokens(template), None)
    assert not rest  # noqa: S101 - _parse without a block to end reads all
    return _joined(pieces)


_Token = tuple[str, str]


def _tokens(template: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    for found in _TAG.finditer(template):
        if found.start() > at:
            tokens.append(("text", template[at : found.start()]))
        at = found.end()
        tag = found["tag"]
        tokens.append(("raw", found["raw"].strip()) if tag is None else ("tag", tag.strip(" \t\n~")))
    if at < len(template):
        tokens.append(("text", template[at:]))
    return tokens


def _parse(tokens: Sequence[_Token], block: str | None) -> tuple[list[Render], Sequence[_Token]]:
    """Return what is rendered up to the end of a block (its `else` or closing tag first in the rest)."""
    pieces: list[Render] = []
    while tokens:
        kind, said = tokens[0]
        if kind == "text":
            pieces.append(_constant(said))
        elif kind == "raw":
            pieces.append(_value(said, escaped=False))
        elif said.startswith("!"):
            pass
        elif said in ("else", "^") or said.startswith("/"):
            if block is None or (said.startswith("/") and said[1:].strip() != block):
                raise TemplateInvalid(f"`{{{{{said}}}}}` ends nothing")
            return pieces, tokens
        elif said.startswith("#"):
            piece, tokens = _block(said, tokens[1:])
            pieces.append(piece)
            continue
        elif said.startswith("&"):
            pieces.append(_value(said[1:].strip(), escaped=False))
        else:
            pieces.append(_value(said, escaped=True))
        tokens = tokens[1:]
    if block is not None:
        raise TemplateInvalid(f"`{{{{#{block}}}}}` has no end")
    return pieces, tokens


def _block(said: str, tokens: Sequence[_Token]) -> tuple[Render, Sequence[_Token]]:
    found = _BLOCK.fullmatch(said)
    if found is None:
        raise TemplateInvalid(f"`{{{{{said}}}}}` is no block of ours; there are #if, #unless and #each")
    kind, read = found[1], _read(found[2])
    then, tokens = _parse(tokens, kind)
    other: list[Render] = []
    if tokens[0][1] in ("else", "^"):
        other, tokens = _parse(tokens[1:], kind)
        if tokens[0][1] in ("else", "^"):
            raise TemplateInvalid(f"`{{{{#{kind}}}}}` has two `else`")
    yes, no = _joined(then), _joined(other)
    if kind == "each":
        return _each(read, yes, no), tokens[1:]
    if kind == "unless":
        yes, no = no, yes
    return (lambda scope: yes(scope) if _true(read(scope)) else no(scope)), tokens[1:]


def _each(read: Callable[[Scope], Json], body: Render, empty: Render) -> Render:
    def render(scope: Scope) -> str:
        value = read(scope)
        if isinstance(value, dict):
            items = [
                (item, {"@key": key, "@index": index}) for index, (key, item) in enumerate(value.items())
            ]
        elif isinstance(value, list):
            items = [(item, {"@index": index}) for index, item in enumerate(value)]
        else:
            items = []
        if not items:
            return empty(scope)
        return "".join(
            body({**(item if isinstance(item, dict) else {}), "this": item, **more}) for item, more in items
        )

    return render


def _joined(pieces: Sequence[Render]) -> Render:
    if len(pieces) == 1:
        return pieces[0]
    return lambda scope: "".join(piece(scope) for piece in pieces)


def _constant(said: str) -> Render:
    return lambda scope: said


def _value(path: str, *, escaped: bool) -> Render:
    read = _read(path)
    if escaped:
        return lambda scope: _written(read(scope)).translate(_HTML)
    return lambda scope: _written(read(scope))


def _read(path: str) -> Callable[[Scope], Json]:
    if not _PATH.fullmatch(path.replace("[", "").replace("]", "").replace(" ", "_")) or ".." in path:
        raise TemplateInvalid(f"`{{{{{path}}}}}` is no path; write it like properties.plan")
    if " " in path and "[" not in path:
        raise TemplateInvalid(f"`{{{{{path}}}}}`: helpers with arguments are not there")
    steps = [step.strip("[]") for step in re.findall(r"\[[^\]]*\]|[^.\[\]/]+", path)]

    def read(scope: Scope) -> Json:
        value: Json = scope
        for index, step in enumerate(steps):
            if step == "this" and index == 0 and "this" not in scope:
                continue
            if isinstance(value, Mapping):
                value = value.get(step)
            elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        return value

    return read


def _true(value: Json) -> bool:
    return bool(value)


def _written(value: Json) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Listed):
        return str(value)
    return "" if value is None else text(value)


def _shown(value: Json) -> str:
    """Return a member of a list of members: what has members of its own as JSON."""
    return json_text(value) if isinstance(value, dict | list) else text(value)
