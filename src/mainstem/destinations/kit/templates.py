"""Templates: texts and trees in settings that take values from the event. Part of the mapping kit.

A text may hold references between double braces, in the notation of RudderStack's dynamic configuration:

    {{ properties.plan }}                     the value at that path (`message.` or `$.` in front may be there)
    {{ traits.plan || "free" }}               the default when there is nothing, null or an empty text

A reference without a value and without a default makes the whole text MISSING: whatever it was for is left out.
A tree is JSON (an object, a list, a text) whose texts are such templates. A text that is nothing but one
reference, or a path that starts with `$`, takes the value itself, with its type; other texts are put together.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from mainstem.destinations.kit.body import text_of
from mainstem.destinations.kit.paths import (
    MISSING,
    Json,
    PathInvalid,
    Read,
    compile_read,
    is_path,
    literal,
    parse_path,
    without_gaps,
)

_REFERENCE: Final = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


def is_template(text: str) -> bool:
    """Tell whether a text holds a reference."""
    return "{{" in text


def compile_text(text: str, quote: Callable[[str], str] | None = None) -> Read:
    """Return a function that gives the text with its references filled in, or MISSING.

    Args:
        text: with or without references.
        quote: applied to each value put in (a URL's values need it); not to one that the text begins with,
            which then is not a part but the beginning.

    Raises:
        PathInvalid: a reference is not a path.
    """
    pieces = _REFERENCE.split(text)
    if len(pieces) == 1:
        return lambda _: text
    references = [_reference(piece) for piece in pieces[1::2]]
    texts = pieces[0::2]
    first_is_whole = not texts[0]

    def fill(message: Json) -> Json:
        filled = [texts[0]]
        for index, read in enumerate(references):
            value = read(message)
            if value is MISSING:
                return MISSING
            put = text_of(without_gaps(value))
            filled.append(put if quote is None or (index == 0 and first_is_whole) else quote(put))
            filled.append(texts[index + 1])
        return "".join(filled)

    return fill


def constants(text: str) -> tuple[str, ...]:
    """Return what a template says by itself: the text around its references, and their defaults."""
    pieces = _REFERENCE.split(text)
    defaults = (literal(piece.partition("||")[2].strip()) for piece in pieces[1::2])
    around = (piece.strip() for piece in pieces[0::2])
    return tuple(piece for piece in (*around, *map(text_of, defaults)) if piece)


def compile_tree(tree: Any) -> Read:
    """Return a function that gives a tree with its references filled in; what is MISSING is left out.

    Raises:
        PathInvalid: a reference in it is not a path; the text says where in the tree.
    """
    return _tree(tree, "")


def _tree(tree: Any, place: str) -> Read:
    if isinstance(tree, dict):
        members = [(key, _tree(item, f"{place}.{key}" if place else str(key))) for key, item in tree.items()]

        def fill_object(message: Json) -> Json:
            filled = ((key, read(message)) for key, read in members)
            return {key: value for key, value in filled if value is not MISSING}

        return fill_object
    if isinstance(tree, list | tuple):
        reads = [_tree(item, f"{place}[{index}]") for index, item in enumerate(tree)]

        def fill_list(message: Json) -> Json:
            return [value for value in (read(message) for read in reads) if value is not MISSING]

        return fill_list
    if isinstance(tree, str):
        try:
            return _leaf(tree)
        except PathInvalid as error:
            raise PathInvalid(f"{place}: {error}" if place else str(error)) from None
    return lambda _: tree


def _leaf(text: str) -> Read:
    if is_path(text):
        return compile_read(parse_path(text))
    whole = _REFERENCE.fullmatch(text.strip())
    return _reference(whole[1]) if whole and text.count("{{") == 1 else compile_text(text)


def _reference(inside: str) -> Read:
    path, bars, default_text = inside.partition("||")
    path = path.strip()
    steps = parse_path(path.removeprefix("message.") if path != "message" else "$")
    read = compile_read(steps)
    if not bars:

        def read_plain(message: Json) -> Json:
            value = read(message)
            return MISSING if value is None or value == "" else value

        return read_plain
    default = literal(default_text.strip())

    def read_or_default(message: Json) -> Json:
        value = read(message)
        return default if value is MISSING or value is None or value == "" else value

    return read_or_default
