"""ES modules as function bodies: what is imported and exported is found, all else stays where it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem.transformations.sandbox.javascript.modules import ModuleInvalid, camel_case, rewrite


@pytest.mark.parametrize(
    ("code", "imports", "exports"),
    [
        ("import a from 'x'", ("x",), ()),
        ("import a, { b as c, default as d } from \"x\"; import * as n from 'y'", ("x", "y"), ()),
        ("import 'x';import'x'", ("x",), ()),
        ("import { a,\n  b,\n} from 'x'", ("x",), ()),
        ("import x from 'x' with { type: 'json' }", ("x",), ()),
        ("import('x'); import.meta", (), ()),
        ("export function f() {}", (), ("f",)),
        ("export async function* f() {}", (), ("f",)),
        ("export class C extends D {}", (), ("C",)),
        (
            "export const a = 1, b = [1, 2], { c, d: [e = {}, ...f], [x + 1]: g, ...h } = i",
            (),
            tuple("abcefgh"),
        ),
        ("export const a = 1\nexport const b = 2", (), ("a", "b")),
        ("export const a = (x) =>\n  x,\n b = 2", (), ("a", "b")),
        ("export let a\nlet b, c", (), ("a",)),
        ("export var a = 1 +\n 2, b", (), ("a", "b")),
        ("export default 7", (), ("default",)),
        ("export default function () {}\n(1)", (), ("default",)),
        ("export default async function named() {}", (), ("default",)),
        ("export default class extends A {}", (), ("default",)),
        ("export { a, b as c, d as default, e as 'quoted' }", (), ("a", "c", "default", "quoted")),
        ("export { a as b } from 'x'", ("x",), ("b",)),
        ("export * from 'x'; export * as n from 'y'", ("x", "y"), ("n",)),
        # none of these is one
        ("// import a from 'x'\n/* export const b = 1 */", (), ()),
        ("const s = \"export const b = 1\", t = 'import a from \\'x\\''", (), ()),
        ("const t = `\nimport a from 'x'\n${ `\nexport const b = 1` }\nexport const c = 1\n`", (), ()),
        ("const r = /[/`'\"]/g, u = a / b / c; export const x = /`/", (), ("x",)),
        ("const o = { export: 1, import: 2 }; o.export; o\n.import", (), ()),
        ("function f() {}\n/export/g.test(x)\nexport const y = 1", (), ("y",)),
        ("x++ / 2; y = a++\n/b/g\nexport const z = 1", (), ("z",)),
        ("#!/usr/bin/env node\nexport const a = 1", (), ("a",)),
    ],
)
def test_imports_and_exports(code: str, imports: tuple[str, ...], exports: tuple[str, ...]) -> None:
    module = rewrite(code)
    assert module.imports == imports
    assert module.exports == exports


@pytest.mark.parametrize(
    "code",
    [
        "import a from x",
        "import { a from 'x'",
        "import {a} of 'x'",
        "export",
        "export 7",
        "export const 7 = 1",
        "const s = 'no end",
        "const s = `no ${ end",
        "/* no end",
        "(",
        "export const a = [1, 2)",
        "}",
    ],
)
def test_what_cannot_be_read_is_refused_in_words(code: str) -> None:
    if code in ("(", "const s = `no ${ end"):
        rewrite(code)  # V8 says it better
        return
    with pytest.raises(ModuleInvalid, match=r"line|end"):
        rewrite(code)


@given(st.text(alphabet="`'\"/\\${}()[]\n *+-=.,;abcexport import from", max_size=60))
def test_any_text_is_read_or_refused(code: str) -> None:
    try:
        body = rewrite(code).body
    except ModuleInvalid:
        return
    assert body.count("\n") >= code.count("\n") + 2


def test_lines_and_columns_stay() -> None:
    code = "import {\n  a,\n} from 'x'; export function f() { throw 1 }\nexport const b = f(a)"
    lines = rewrite(code).body.split("\n")[1:]
    for number, line in enumerate(code.split("\n")):
        for word in ("throw", "= f(a)"):
            if word in line:
                assert lines[number].index(word) == line.index(word)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("My Other-Lib", "myOtherLib"),
        ("sums", "sums"),
        ("JSON tools 2", "jsonTools2"),
        ("parseURL", "parseUrl"),
    ],
)
def test_names_as_rudderstack_imports_them(name: str, expected: str) -> None:
    assert camel_case(name) == expected
