"""The cases of ready-made transformations, and the reference page written from their specs and cases.

`python -m mainstem.transformations.ready.reference` writes `docs/reference/ready-made-transformations.md` again; a
test fails while it differs. What is said to users stands beside the code that does it.
"""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec

from mainstem.destinations.reference import settings_of
from mainstem.events.canonical import id_text
from mainstem.events.ordering import ordering_key
from mainstem.transformations.base import About, Result
from mainstem.transformations.ready import catalog
from mainstem.transformations.ready.base import Group, ReadySpec, Tools

PAGE: Final = Path("docs/reference/ready-made-transformations.md")
_COMMAND: Final = ".venv/bin/python -m mainstem.transformations.ready.reference"
_GROUPS: Final[Mapping[Group, str]] = {
    "privacy": "Personal data",
    "choose": "Which events go on",
    "shape": "Names, fields, values",
    "enrich": "What can be added",
}


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One example of `cases/NAME.json`, which is a list of them; checked by the tests, shown in the reference."""

    name: str
    """What it shows; a sentence without a full stop."""
    settings: dict[str, Any]
    input: dict[str, Any]
    output: tuple[dict[str, Any], ...] = ()
    """The messages that come out; none: the event is dropped."""
    failed: str = ""
    """The reason, when it fails."""
    source_id: str = "web"
    received_at_ms: int = 1_790_000_000_000
    geo: dict[str, dict[str, str]] = {}
    """What the operator's GeoIP database says of addresses."""
    texts: dict[str, str] = {}
    """Texts beside the message, and what an edge policy makes of them."""
    shown: bool = True
    """Whether the reference page shows it."""

    @property
    def about(self) -> About:
        """What the transformation is told besides the message."""
        user_id, anonymous_id = id_text(self.input.get("userId")), id_text(self.input.get("anonymousId"))
        return About(
            source_id=self.source_id,
            message_id=id_text(self.input.get("messageId")) or "message-1",
            ordering_key=ordering_key(self.source_id, user_id, anonymous_id),
            received_at_ms=self.received_at_ms,
        )

    def run(self, spec: ReadySpec) -> Result:
        """Return what the transformation makes of the input.

        Raises:
            ValueError: the settings are wrong.
        """
        checked = catalog.validate_settings(spec.name, self.settings)
        if checked.errors:
            raise ValueError(f"{spec.name}: {self.name}: {checked.errors}")
        return spec.make(checked.config, Tools(locate=self.geo.get))(self.input, self.about)


def cases_of(name: str) -> tuple[Case, ...]:
    """Return the cases of a ready-made transformation, in the file's order.

    Raises:
        FileNotFoundError: it has none.
        msgspec.ValidationError: the file is not a list of cases.
    """
    file = resources.files("mainstem.transformations.ready") / "cases" / f"{name}.json"
    return tuple(msgspec.json.decode(file.read_bytes(), type=list[Case]))


def page() -> str:
    """Return the reference page as Markdown."""
    specs = [spec for name in catalog.names() if (spec := catalog.find_spec(name)) is not None]
    lines = [
        "# Ready-made transformations",
        "",
        f"<!-- Generated from the code and its cases. Write it again with: {_COMMAND} -->",
        "",
        "Transformations that need no code: a name and settings. None of them reads a clock or the network, so a",
        "replay gives the same again. Those marked *edge* may also run in the gateway: what they take out never",
        "touches the disk. A setting that does not exist is an error.",
        "",
        "Each sees one event at a time. Why none puts several into one, and what does: [several events in",
        "one](transformation-samples.md#several-events-in-one).",
        "",
    ]
    for group, title in _GROUPS.items():
        of_group = [spec for spec in specs if spec.group == group]
        if of_group:
            links = [f"[{spec.name}](#{spec.name})" for spec in of_group]
            lines += [f"- {title}: {', '.join(links)}"]
    for group in _GROUPS:
        for spec in specs:
            if spec.group == group:
                lines += _section(spec)
    return "\n".join(lines).rstrip() + "\n"


def _section(spec: ReadySpec) -> list[str]:
    facts = [spec.title + (" (*edge*)" if spec.edge else "") + ".", " ".join(spec.text.split())]
    lines = ["", f"## {spec.name}", "", *facts[:1], "", *facts[1:], ""]
    for setting in settings_of(spec.settings):
        marks = ["required" if setting.required else f"default {setting.default}"]
        marks += ["secret"] if setting.secret else []
        lines.append(f"- `{setting.name}` ({', '.join(marks)}): {setting.text}")
    for case in cases_of(spec.name):
        if case.shown:
            lines += ["", f"**{case.name}.**", "", *_example(case)]
    return lines


def _example(case: Case) -> list[str]:
    lines = [
        "```json",
        _json({"settings": case.settings}),
        "```",
        "",
        "```json",
        _json(case.input),
        "```",
        "",
    ]
    if case.failed:
        return [*lines, f"fails: {case.failed}"]
    if not case.output:
        return [*lines, "is dropped."]
    lines += ["becomes" if len(case.output) == 1 else "becomes, in this order,", ""]
    for message in case.output:
        lines += ["```json", _json(message), "```"]
    return lines


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
