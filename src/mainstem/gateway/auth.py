"""Who is sending: write key -> source.

Order (the first one present decides): Basic user, `X-Write-Key`, query `writeKey`, body `writeKey`. Keys are
looked up by their SHA-256, so the time of a look-up says nothing about the characters of a key. A header that
was good before is found again by its bytes: Python's dict compares a salted hash first, and bytes only of an
equal hash.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Final

from mainstem.gateway.edge import EdgePolicy, edge_policy
from mainstem.workspace.model import Source, Workspace

_MAX_REMEMBERED: Final = 4_096
_MAX_KEY_CHARS: Final = 512


class KnownSource:
    """A source with what ingest needs of it, computed once."""

    __slots__ = (
        "accepted", "allowance", "duplicates", "edge", "id", "origins", "plain", "rejected", "rejected_tally",
        "source", "warnings",
    )  # fmt: skip

    def __init__(self, source: Source, allowance: float, edge: EdgePolicy | None = None) -> None:
        self.source = source
        self.edge = edge
        """What is taken out of its events before they are stored."""
        self.id = source.id
        self.rejected_tally = f"rejected:{source.id}"
        self.origins = frozenset(origin.rstrip("/").lower().encode() for origin in source.origins)
        self.accepted = 0
        self.duplicates = 0
        self.rejected = 0
        """Counted since the last tick."""
        self.warnings: dict[str, int] = {}
        self.plain = source.enabled and edge is None
        """A request of a server with its key in the head is taken as it is."""
        self.allowance = allowance
        """Events it may still send now, when there is a rate limit."""

    def warn(self, warning: str) -> None:
        """Count an accepted event with something odd."""
        self.warnings[warning] = self.warnings.get(warning, 0) + 1


class KeyRing:
    """The write keys of one snapshot."""

    def __init__(self, workspace: Workspace, allowance: float = 0.0) -> None:
        self.sources = [
            KnownSource(source, allowance, edge_policy(workspace, source)) for source in workspace.sources
        ]
        self._by_digest = {_digest(key): known for known in self.sources for key in known.source.write_keys}
        self.remembered: dict[bytes, KnownSource] = {}
        """Sources by an `Authorization` that was good before, and by `X-Write-Key` behind a line feed."""

    def by_key(self, key: str) -> KnownSource | None:
        """Return the source of a write key."""
        return self._by_digest.get(_digest(key)) if 0 < len(key) <= _MAX_KEY_CHARS else None

    def by_headers(self, headers: Mapping[bytes, bytes]) -> tuple[bool, KnownSource | None]:
        """Return whether a header carries a key, and the source it belongs to."""
        value = headers.get(b"authorization")
        if value is not None:
            known = self.remembered.get(value)
            if known is not None:
                return True, known
            key = _basic_user(value)
            if key:
                return True, self._remember(value, self.by_key(key))
        value = headers.get(b"x-write-key")
        if value:
            memo = b"\n" + value
            known = self.remembered.get(memo)
            if known is not None:
                return True, known
            key = value.decode("latin-1").strip()
            # Jitsu's keys are `id:secret`; the id alone may be configured.
            known = self.by_key(key) or self.by_key(key.partition(":")[0])
            return True, self._remember(memo, known)
        return False, None

    def _remember(self, header: bytes, known: KnownSource | None) -> KnownSource | None:
        if known is not None:
            if len(self.remembered) >= _MAX_REMEMBERED:
                self.remembered.clear()
            self.remembered[header] = known
        return known


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def _basic_user(value: bytes) -> str:
    """Return the user of a Basic header, `?` for one that can't be read, empty for other schemes."""
    scheme, _, text = value.partition(b" ")
    if scheme.lower() != b"basic":
        return ""
    try:
        bare = text.strip().rstrip(b"=")
        decoded = base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return "?"
    return decoded.decode("utf-8", "replace").partition(":")[0].strip()
