"""Makes a package with a destination type of one's own: a module, its cases, its entry point.

What it makes works at once: `pip install -e`, `mainstem destination test`, `mainstem destination show`.
docs/how-to/add-a-destination.md goes on from here.
"""

import json
import re
from pathlib import Path
from typing import Final

from mainstem.errors import SettingsError

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")

_PROJECT: Final = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "mainstem-{slug}"
version = "0.1.0"
requires-python = ">=3.11"

[project.entry-points."mainstem.destinations"]
{slug} = "mainstem_{slug}:SPEC"

[tool.hatch.build.targets.wheel]
packages = ["src/mainstem_{slug}"]
"""

_MODULE: Final = '''"""{title}: what it is, in one sentence.

Follows (the vendor's API page, its version, the date it was read). Auth: … Limits: …
"""

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapper, Payloads
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.refuse import settled
from mainstem.destinations.kit.spec_fields import EMAIL, TIMESTAMP, USER_OR_ANONYMOUS_ID
from mainstem.destinations.kit.table import Row, Table
from mainstem.events.canonical import Event
from mainstem.secret import Secret


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings."""

    api_key: Secret
    """The key of your account."""


FIELDS = Table(
    Row("user", *USER_OR_ANONYMOUS_ID, required=True),
    Row("email", *EMAIL),
    Row("name", "event", required=True),
    Row("at", *TIMESTAMP),
    Row("data", "properties"),
)


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    headers = {{"Authorization": f"Bearer {{config.api_key.reveal()}}"}}

    def to_calls(event: Event, context: MapContext) -> Payloads:
        return (json_call("https://api.example.com/v1/events", FIELDS.build(event.message), headers=headers),)

    return settled(to_calls)


SPEC = DestinationSpec(
    name="{upper}",
    title="{title}",
    kind="http",
    config=Config,
    message_types=frozenset({{"track"}}),
    doc_url="https://example.com/docs",
    mapper=make_mapper,
)
'''


def scaffold(folder: Path, name: str) -> list[Path]:
    """Write the package and return its files.

    Raises:
        SettingsError: the name is no name, or the folder is there already.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} is no name for a type: a letter, then letters, digits and _, 40 at most"
        )
    slug = name.lower()
    root = folder / slug
    if root.exists():
        raise SettingsError(f"{root}: is there already")
    facts = {"slug": slug, "upper": slug.upper(), "title": name.replace("_", " ").title()}
    cases = [
        {
            "name": "a track",
            "config": {"apiKey": "k1"},
            "message": {
                "type": "track",
                "event": "Order Completed",
                "userId": "u1",
                "timestamp": "2026-01-02T03:04:05.000Z",
                "context": {"traits": {"email": "ann@example.com"}},
                "properties": {"total": 9.5},
            },
            "payloads": [
                {
                    "method": "POST",
                    "url": "https://api.example.com/v1/events",
                    "headers": [["Authorization", "***"], ["Content-Type", "application/json"]],
                    "body": {
                        "user": "u1",
                        "email": "ann@example.com",
                        "name": "Order Completed",
                        "at": "2026-01-02T03:04:05.000Z",
                        "data": {"total": 9.5},
                    },
                }
            ],
        },
        {
            "name": "nobody did it",
            "config": {"apiKey": "k1"},
            "message": {"type": "track", "event": "Order Completed"},
            "refusal": "`userId` or `traits.userId` or `traits.id` is missing; it is required for `user`",
        },
    ]
    files = {
        root / "pyproject.toml": _PROJECT.format(**facts),
        root / "src" / f"mainstem_{slug}" / "__init__.py": _MODULE.format(**facts),
        root / "cases.json": json.dumps(cases, indent=2, ensure_ascii=False) + "\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return list(files)
