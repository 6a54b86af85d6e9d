"""Writes a published version as publishing does, for tests of what reads it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec

from mainstem.workspace.published import PublishedVersion, seal


def publish(folder: Path, version: int, code: str = "", **fields: Any) -> Path:
    """Return the folder of the version."""
    place = folder / "versions" / str(version)
    place.mkdir(parents=True)
    kind = fields.get("kind", "javascript")
    files = dict(fields.pop("libraries", {}))
    if kind != "ready":
        files["code.js" if kind == "javascript" else "code.py"] = code
    hashes = {}
    for name, text in files.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
        hashes[name] = hashlib.sha256(text.encode()).hexdigest()
    manifest = PublishedVersion(
        **({"version": version, "published_at": "2026-01-01T00:00:00.000Z", "kind": kind} | fields),
        files=hashes,
    )
    sealed = msgspec.structs.replace(manifest, sha256=seal(manifest))
    (place / "version.json").write_text(json.dumps(msgspec.to_builtins(sealed)))
    return place
