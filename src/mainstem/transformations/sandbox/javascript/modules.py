"""From an ES module to the body of a function, since V8 here has no module loader.

javascript/host.py, in the jail, once per version. `import` and `export` stand at the top level of a module only, so a
scanner that knows strings, comments, regular expressions, templates and brackets finds them for sure; the rest of
the code is left as it is, on its lines, so that errors name the user's lines.
Grammar: https://tc39.es/ecma262/#sec-modules.
"""

import re
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

LINES_BEFORE: Final = 3
"""How many lines stand before the code's first, in V8's eyes: two of `new Function`, one of `rewrite`."""

SEGMENT_HANDLERS: Final = (
    "onIdentify",
    "onTrack",
    "onPage",
    "onScreen",
    "onGroup",
    "onAlias",
    "onDelete",
)
"""Segment Functions' handlers; top-level functions, not exported."""


class ModuleInvalid(Exception):
    """An import or export can't be read; the text names the line."""


class Module(msgspec.Struct, frozen=True):
    """One rewritten module."""

    body: str
    """Of a function of `$import`: returns an object with the exports."""
    imports: tuple[str, ...]
    """The names behind `from`, in order, each once."""
    exports: tuple[str, ...]
    imported: tuple[tuple[str, tuple[str, ...]], ...]
    """Each import statement's module and the names it takes from there: their names there, of a default import the
    name here; none for a whole module."""


class _Token(msgspec.Struct, frozen=True, gc=False):
    kind: Literal["name", "string", "other", "punctuator"]
    text: str
    start: int
    end: int
    depth: int
    """Brackets around it; those themselves count as outside."""
    line: int
    starts_line: bool


_NAME: Final = re.compile(r"(?:[$_\w]|\\u[0-9a-fA-F{}]+|[^\x00-\x7f\s])+")
_SPACE: Final = re.compile(r"[\s\ufeff]+")
_STRING: Final = re.compile(r"'(?:[^'\\\n]|\\.|\\\n)*'|\"(?:[^\"\\\n]|\\.|\\\n)*\"", re.DOTALL)
_REGEX: Final = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/\w*")
_LINE_COMMENT: Final = re.compile(r"(?://|#!)[^\n\r\u2028\u2029]*")
_BLOCK_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
_PUNCTUATOR: Final = re.compile(r"=>|\.\.\.|\+\+|--|.", re.DOTALL)
# After these a slash begins a regular expression, not a division.
_BEFORE_REGEX: Final = frozenset(
    {"return", "typeof", "case", "in", "of", "delete", "void", "throw", "new", "instanceof"}
    | {"do", "else", "yield", "await"}
)
_BLOCK_OPENERS: Final = frozenset({")", ";", "{", "}", "=>", "else", "do", "try", "finally", ""})
_HEADS: Final = frozenset({"if", "while", "for", "with"})
_CLOSING: Final = {"(": ")", "[": "]", "{": "}", "`": "}"}


def _tokens(code: str) -> Iterator[_Token]:
    at, line, starts_line = 0, 1, True
    before = ""
    before_kind = ""
    # What is open, and whether a slash after its end begins a regular expression.
    open_: list[tuple[str, bool]] = []
    regex_next = True

    def template(position: int) -> tuple[int, bool]:
        """From inside a template to behind its end, or behind the next `${` (then True)."""
        while position < len(code):
            char = code[position]
            if char == "\\":
                position += 2
            elif char == "`":
                return position + 1, False
            elif code.startswith("${", position):
                return position + 2, True
            else:
                position += 1
        raise ModuleInvalid(f"a template that begins before line {line} has no end")

    while at < len(code):
        if space := _SPACE.match(code, at):
            lines = space[0].count("\n")
            line += lines
            starts_line = starts_line or lines > 0
            at = space.end()
            continue
        char = code[at]
        if code.startswith(("//", "/*"), at) or (at == 0 and code.startswith("#!")):
            comment = _LINE_COMMENT.match(code, at) or _BLOCK_COMMENT.match(code, at)
            if comment is None:
                raise ModuleInvalid(f"the comment that begins in line {line} has no end")
            lines = comment[0].count("\n")
            line += lines
            starts_line = starts_line or lines > 0
            at = comment.end()
            continue
        start, start_line, depth = at, line, len(open_)
        kind: Literal["name", "string", "other", "punctuator"]
        after_regex = False
        if char in "'\"":
            match = _STRING.match(code, at)
            if match is None:
                raise ModuleInvalid(f"the string that begins in line {line} has no end")
            at, kind = match.end(), "string"
        elif char == "`":
            at, inside = template(at + 1)
            kind = "other"
            if inside:
                open_.append(("`", False))
                after_regex = True
        elif char == "/" and regex_next and (match := _REGEX.match(code, at)):
            at, kind = match.end(), "other"
        elif match := _NAME.match(code, at):
            at, kind = match.end(), "other" if match[0][0].isdigit() else "name"
            after_regex = match[0] in _BEFORE_REGEX and before != "."
        else:
            match = _PUNCTUATOR.match(code, at)
            assert match is not None  # noqa: S101 - it matches any character
            at, kind = match.end(), "punctuator"
            text = match[0]
            after_regex = True
            if text == "(":
                open_.append((text, before in _HEADS and before_kind == "name"))
            elif text == "[":
                open_.append((text, False))
            elif text == "{":
                open_.append((text, before in _BLOCK_OPENERS))
            elif text in ")]}":
                if not open_ or _CLOSING[open_[-1][0]] != text:
                    raise ModuleInvalid(f"unexpected {text} in line {line}")
                opener, after_regex = open_.pop()
                depth = len(open_)
                if opener == "`":
                    at, inside = template(at)
                    kind = "other"
                    if inside:
                        open_.append(("`", False))
                        after_regex = True
            elif text in ("++", "--"):
                after_regex = regex_next
        text = code[start:at]
        line += text.count("\n")
        yield _Token(kind, text, start, at, depth, start_line, starts_line)
        before, before_kind, regex_next, starts_line = text, kind, after_regex, False


class _Rewriter:
    """Walks over the top-level tokens and gathers what is imported, exported and cut."""

    def __init__(self, code: str) -> None:
        self._code = code
        self._tokens = list(_tokens(code))
        self._at = 0
        self._edits: list[tuple[int, int, str]] = []
        self._bindings: list[str] = []
        self._imports: dict[str, int] = {}
        self._imported: list[tuple[str, tuple[str, ...]]] = []
        self._exports: dict[str, str] = {}
        self._stars: list[int] = []

    def rewrite(self) -> Module:
        while token := self._peek():
            begins = self._at == 0 or token.starts_line or self._tokens[self._at - 1].text in (";", "}")
            if token.depth or token.kind != "name" or not begins:
                self._at += 1
            elif token.text == "import":
                self._import()
            elif token.text == "export":
                self._export()
            else:
                self._at += 1
        code = self._code
        for start, end, text in sorted(self._edits, reverse=True):
            code = code[:start] + text + _blank(code[start:end], len(text)) + code[end:]
        stars = "".join(f"...$m{number}," for number in self._stars)
        values = ",".join(f"{_quoted(name)}:{value}" for name, value in self._exports.items())
        handlers = ",".join(
            f"{name}:typeof {name}==='undefined'?undefined:{name}" for name in SEGMENT_HANDLERS
        )
        body = (
            f'"use strict";{"".join(self._bindings)}\n{code}\n'
            f";return {{exports:{{__proto__:null,{stars}{values}}},handlers:{{__proto__:null,{handlers}}}}};"
        )
        return Module(body, tuple(self._imports), tuple(self._exports), tuple(self._imported))

    def _peek(self, ahead: int = 0) -> _Token | None:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else None

    def _text(self, ahead: int = 0) -> str:
        token = self._peek(ahead)
        return token.text if token else ""

    def _take(self, *expected: str) -> _Token:
        token = self._peek()
        if token is None:
            raise ModuleInvalid("the code ends in the middle of an import or export")
        if expected and token.text not in expected:
            raise ModuleInvalid(f"unexpected {token.text[:40]} in line {token.line}")
        self._at += 1
        return token

    def _name(self) -> str:
        token = self._take()
        if token.kind == "string":
            return _unquoted(token.text)
        if token.kind != "name":
            raise ModuleInvalid(f"unexpected {token.text[:40]} in line {token.line}")
        return token.text

    def _from(self) -> int:
        """`"name"` and what may follow; returns the module's number."""
        token = self._take()
        if token.kind != "string":
            raise ModuleInvalid(f"expected a quoted name after from in line {token.line}")
        name = _unquoted(token.text)
        if name not in self._imports:
            number = self._imports[name] = len(self._imports)
            self._bindings.insert(number, f"const $m{number}=$import({_quoted(name)});")
        if self._text() == "with" and self._text(1) == "{":
            self._at += 2
            while self._take().text != "}":
                pass
        return self._imports[name]

    def _cut(self, first: _Token, replacement: str = "") -> None:
        """Cut from `first` to the last token taken, and a semicolon after it."""
        last = self._tokens[self._at - 1]
        if self._text() == ";":
            last = self._take()
        self._edits.append((first.start, last.end, replacement))

    def _import(self) -> None:
        if self._text(1) in ("(", "."):
            self._at += 1
            return
        first = self._take("import")
        following = self._peek()
        if following is not None and following.kind == "string":
            number = self._from()
            self._imported.append((list(self._imports)[number], ()))
            self._cut(first)
            return
        named: list[tuple[str, str]] = []
        whole: list[str] = []
        if self._text() not in ("{", "*"):
            named.append(("default", self._name()))
            if self._text() == ",":
                self._take()
        if self._text() == "*":
            self._take()
            self._take("as")
            whole.append(self._name())
        elif self._text() == "{":
            named += self._named()
        self._take("from")
        number = self._from()
        taken = tuple(ours if theirs == "default" else theirs for theirs, ours in named)
        self._imported.append((list(self._imports)[number], taken))
        self._bindings += [f"const {name}=$m{number};" for name in whole]
        if named:
            pairs = ",".join(f"{_quoted(theirs)}:{ours}" for theirs, ours in named)
            self._bindings.append(f"const {{{pairs}}}=$m{number};")
        self._cut(first)

    def _named(self) -> list[tuple[str, str]]:
        """`{ a, b as c }` as pairs."""
        self._take("{")
        pairs = []
        while self._text() != "}":
            first = second = self._name()
            if self._text() == "as":
                self._take()
                second = self._name()
            pairs.append((first, second))
            if self._text() != "}":
                self._take(",")
        self._take("}")
        return pairs

    def _export(self) -> None:
        first = self._take("export")
        following = self._text()
        if following == "default":
            self._default(first)
        elif following == "{":
            pairs = self._named()
            if self._text() == "from":
                self._take()
                number = self._from()
                self._exports |= {ours: f"$m{number}[{_quoted(theirs)}]" for theirs, ours in pairs}
            else:
                self._exports |= {theirs: ours for ours, theirs in pairs}
            self._cut(first)
        elif following == "*":
            self._take()
            name = ""
            if self._text() == "as":
                self._take()
                name = self._name()
            self._take("from")
            number = self._from()
            if name:
                self._exports[name] = f"$m{number}"
            else:
                self._stars.append(number)
            self._cut(first)
        else:
            self._edits.append((first.start, first.end, ""))
            self._declaration()

    def _default(self, first: _Token) -> None:
        default = self._take("default")
        ahead = 1 if self._text() == "async" and self._text(1) == "function" else 0
        if self._text(ahead) not in ("function", "class"):
            self._edits.append((first.start, default.end, "const $default="))
            self._exports["default"] = "$default"
            return
        # A declaration: hoisted, and not ended by the next line. It needs a name.
        self._edits.append((first.start, default.end, ""))
        self._at += ahead
        keyword = self._take()
        if self._text() == "*":
            keyword = self._take()
        named = self._peek()
        if named is not None and named.kind == "name" and named.text != "extends":
            self._exports["default"] = named.text
        else:
            self._edits.append((keyword.end, keyword.end, " $default "))
            self._exports["default"] = "$default"

    def _declaration(self) -> None:
        token = self._take()
        if token.text == "async":
            token = self._take("function")
        if token.text in ("function", "class"):
            if self._text() == "*":
                self._take()
            name = self._name()
            self._exports[name] = name
        elif token.text in ("const", "let", "var"):
            self._declarators()
        else:
            raise ModuleInvalid(f"unexpected {token.text[:40]} after export in line {token.line}")

    def _declarators(self) -> None:
        """`a = 1, { b, c: [d] } = f()`: the names that are declared."""
        while True:
            for name in self._pattern():
                self._exports[name] = name
            before = self._tokens[self._at - 1].text
            while (token := self._peek()) is not None:
                if not token.depth and token.text in (",", ";"):
                    break
                if token.starts_line and not token.depth and _ends_statement(before, token):
                    return
                before = token.text
                self._at += 1
            if self._text() != ",":
                return
            self._take()

    def _pattern(self) -> list[str]:
        token = self._take()
        if token.kind == "name":
            return [token.text]
        if token.text not in ("{", "["):
            raise ModuleInvalid(f"unexpected {token.text[:40]} in line {token.line}")
        names = []
        closing = _CLOSING[token.text]
        while not (self._text() == closing and self._depth() == token.depth):
            if self._text() in (",", "..."):
                self._take()
                continue
            if token.text == "[":
                names += self._pattern()
            else:
                key = self._take()
                if key.text == "[":  # a computed key
                    while not (self._text() == "]" and self._depth() == key.depth):
                        self._take()
                    self._take()
                if self._text() == ":":
                    self._take()
                    names += self._pattern()
                else:
                    names.append(key.text)
            if self._text() == "=":
                self._initializer(token.depth)
        self._take(closing)
        return names

    def _initializer(self, outside: int) -> None:
        """A default value in a pattern whose brackets stand at depth `outside`."""
        while not (
            (self._text() == "," and self._depth() == outside + 1)
            or (self._text() in ("}", "]") and self._depth() == outside)
        ):
            self._take()

    def _depth(self) -> int:
        token = self._peek()
        return token.depth if token else 0


def _ends_statement(before: str, token: _Token) -> bool:
    """Whether a new line ends the statement: what follows can't go on with it."""
    complete = bool(before) and (before[-1] in ")]}'\"`" or _NAME.fullmatch(before[-1]) is not None)
    return complete and token.kind in ("name", "string") and token.text not in ("in", "instanceof")


def _blank(cut: str, filled: int) -> str:
    """What keeps the rest on its line and in its column, where `filled` characters stand already."""
    lines = cut.count("\n")
    if not lines:
        return " " * (len(cut) - filled)
    return "\n" * lines + " " * (len(cut) - cut.rindex("\n") - 1)


def _quoted(name: str) -> str:
    return msgspec.json.encode(name).decode()


def _unquoted(literal: str) -> str:
    inside = literal[1:-1]
    if "\\" in inside:
        raise ModuleInvalid(f"a module's name has no escapes: {literal[:40]}")
    return inside


def rewrite(code: str) -> Module:
    """Return the module as a function's body.

    Raises:
        ModuleInvalid: an import or export can't be read, or a bracket, string or comment has no end.
    """
    return _Rewriter(code).rewrite()


def rewrite_script(code: str) -> str:
    """Return a legacy script (`function transform(events)`) as the body of a function that returns it."""
    return f"\n{code}\n;return typeof transform==='undefined'?undefined:transform;"


def camel_case(name: str) -> str:
    """Return the name under which RudderStack's code imports a library called `name`."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)
    return "".join(word.lower() if not number else word.capitalize() for number, word in enumerate(words))
