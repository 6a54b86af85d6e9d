"""Message templates: what they take from an event, and what they refuse to be."""

from typing import Any

import pytest

from mainstem.destinations.kit.handlebars import Listed, TemplateInvalid, compile_message

SCOPE: dict[str, Any] = {
    "name": "Ann & <Bo>",
    "zero": 0,
    "no": False,
    "null": None,
    "list": [1, "b", None],
    "items": [{"id": "p1", "tags": ["x"]}, {"id": "p2", "tags": []}],
    "odd name": "odd",
    "told": Listed({"a": 1, "b": {"c": [True]}, "d": None}),
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", ""),
        ("plain {text}", "plain {text}"),
        ("{{name}}", "Ann &amp; &lt;Bo&gt;"),
        ("{{{name}}} {{&name}}", "Ann & <Bo> Ann & <Bo>"),
        ("{{zero}}|{{no}}|{{null}}|{{absent}}|{{absent.deeper}}", "0|false|||"),
        ("{{list}} {{items.[1].id}} {{items.0.id}}", "1,b, p2 p1"),
        ("{{[odd name]}}", "odd"),
        ("{{told}}|{{told.a}}", "a: 1 b: {&quot;c&quot;:[true]} d: null |1"),
        ("{{told.b}}", "[object Object]"),
        ("{{! no }}{{!-- no }} --}}x", "x"),
        ("{{#if name}}yes{{else}}no{{/if}}{{#if zero}}yes{{^}}no{{/if}}", "yesno"),
        ("{{#unless list}}yes{{else}}no{{/unless}}{{#unless absent}}yes{{/unless}}", "noyes"),
        ("{{#each items}}{{@index}}:{{id}}={{this.id}};{{/each}}", "0:p1=p1;1:p2=p2;"),
        ("{{#each list}}[{{this}}]{{/each}}", "[1][b][]"),
        ("{{#each told}}{{@key}}{{/each}}{{#each name}}x{{else}}none{{/each}}", "abdnone"),
        ("{{#each items}}{{#if tags}}{{id}}{{/if}}{{/each}}", "p1"),
    ],
)
def test_a_template_takes_what_is_there(template: str, expected: str) -> None:
    assert compile_message(template)(SCOPE) == expected


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{> partial}}", "no path"),
        ("{{#with a}}{{/with}}", "#if, #unless and #each"),
        ("{{#if a}}", "has no end"),
        ("{{/if}}", "ends nothing"),
        ("{{else}}", "ends nothing"),
        ("{{#if a}}{{/each}}", "ends nothing"),
        ("{{#if a}}{{else}}{{else}}{{/if}}", "two `else`"),
        ("{{helper a}}", "arguments"),
        ("{{../a}}", "no path"),
        ("{{}}", "no path"),
    ],
)
def test_what_is_no_template_says_why(template: str, words: str) -> None:
    with pytest.raises(TemplateInvalid, match=words):
        compile_message(template)
