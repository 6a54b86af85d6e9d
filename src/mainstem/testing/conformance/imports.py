"""What code imports, by module: `{module: [names]}`, as RudderStack's `/extractLibs` tells it.

JavaScript by the tokenizer that also rewrites modules for the sandbox, Python by its own parser.
"""

import ast

from mainstem.transformations.sandbox.javascript.modules import ModuleInvalid, rewrite


def imported_names(code: str, language: str) -> dict[str, list[str]] | None:
    """Return the modules in order, each with the names taken from it by their names there (a default import by its
    name here; a whole module none); None if the code can't be read."""
    return _python(code) if language.startswith("python") else _javascript(code)


def _javascript(code: str) -> dict[str, list[str]] | None:
    try:
        imported = rewrite(code).imported
    except ModuleInvalid:
        return None
    found: dict[str, list[str]] = {}
    for module, names in imported:
        found.setdefault(module.strip(), []).extend(names)
    return found


def _python(code: str) -> dict[str, list[str]] | None:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, [])
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.setdefault(node.module, []).extend(alias.name for alias in node.names)
    return found
