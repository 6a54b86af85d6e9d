"""Which libraries a transformation's code imports, read off its text.

Only statements at the beginning of a line count, which is where both languages' formatters put them. What the
text can't tell (an import made at run time) the sandbox refuses anyway.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from mainstem.workspace.model import CodeLibrary

_JAVASCRIPT: Final = re.compile(
    # What may stand before `from` is bounded, and no function's body fits: `export function … // from 'x'` is none.
    r"""^[ \t]*(?:import\b(?:[\w\s{},*$]|//[^\n]*\n|/\*[^*]*\*/){1,2000}?|export\b[\w\s{},*$]{1,2000}?)"""
    r"""\bfrom\s*(['"])(?P<from>[^'"\n]+)\1|^[ \t]*import\s*(['"])(?P<bare>[^'"\n]+)\3""",
    re.MULTILINE,
)
_BLOCK_COMMENT: Final = re.compile(r"^[ \t]*/\*.*?\*/", re.MULTILINE | re.DOTALL)
_PYTHON: Final = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<from>[\w.]+)[ \t]+import\b|import[ \t]+(?P<names>[^\n#;]+))", re.MULTILINE
)


def imported(code: str, language: str) -> frozenset[str]:
    """Return the names that stand behind `from` and `import`; of a Python package the first part."""
    if language == "javascript":
        return frozenset(
            match["from"] or match["bare"] for match in _JAVASCRIPT.finditer(_BLOCK_COMMENT.sub("", code))
        )
    found: set[str] = set()
    for match in _PYTHON.finditer(code):
        named = [match["from"]] if match["from"] else match["names"].split(",")
        found.update(name.split()[0].partition(".")[0] for name in named if name.strip())
    return frozenset(found - {""})


def libraries_of(code: str, language: str, known: Sequence[CodeLibrary]) -> tuple[CodeLibrary, ...]:
    """Return those of the known libraries that the code imports, and those that these import."""
    chosen: dict[str, CodeLibrary] = {}
    texts = [code]
    while texts:
        names = imported(texts.pop(), language)
        for library in known:
            if library.language == language and library.name in names and library.name not in chosen:
                chosen[library.name] = library
                texts.append(library.code)
    return tuple(chosen.values())


def not_there(code: str, language: str, known: Iterable[CodeLibrary]) -> tuple[str, ...]:
    """Return what JavaScript imports and no known library is; Python has its standard modules besides."""
    if language != "javascript":
        return ()
    return tuple(sorted(imported(code, language) - {library.name for library in known}))
