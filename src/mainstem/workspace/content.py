"""A short name for content: the same for the same values, however they are written."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

from mainstem.secret import Secret
from mainstem.workspace.model import Transformation

_VERSION_DIGITS: Final = 12


def content_version(value: Any) -> str:
    """Return a short hash of plain values: the same for the same content, however it is written."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=Secret.reveal)
    return hashlib.blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()[
        :_VERSION_DIGITS
    ]


def snapshot_version(document: Any, transformations: Sequence[Transformation]) -> str:
    """Return the version of a snapshot: of its document, and of the code that lies beside it."""
    if not transformations:
        return content_version(document)
    code = [
        [item.id, item.code, [[each.name, each.code] for each in item.libraries]] for item in transformations
    ]
    return content_version({"document": document, "code": code})
