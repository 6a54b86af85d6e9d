"""The edge policies of a source: what they remove or tokenise is never stored.

gateway -> **edge** -> ingest. They see what came in before anything of it reaches the disk: the message, the
address and User-Agent of the request, the batch's context, and the words of a refusal. What can't be read as an
event can't be cleaned: nothing of it is kept. When in doubt, nothing is kept.
"""

from collections.abc import Sequence

import msgspec

from mainstem.transformations.base import About, Change, Dropped, Failed
from mainstem.transformations.ready.base import TextChange
from mainstem.transformations.ready.catalog import change_for, text_change_for
from mainstem.transformations.ready.edge import Arrived, apply_at_edge, text_at_edge
from mainstem.workspace.model import Source, Workspace


class EdgePolicy:
    """All policies of one source, in order."""

    __slots__ = ("_changes", "_texts", "names")

    def __init__(self, names: Sequence[str], changes: Sequence[Change], texts: Sequence[TextChange]) -> None:
        self.names = ", ".join(names)
        """For people."""
        self._changes = changes
        self._texts = texts

    def apply(self, arrived: Arrived, about: About) -> Arrived | Dropped | Failed:
        """Return what may be stored of an event."""
        return apply_at_edge(self._changes, arrived, about)

    def member(self, name: str, raw: bytes, about: About) -> bytes:
        """Return what may be stored of a batch's field (JSON, empty = none) that each of its events shares."""
        if not raw:
            return b""
        outcome = self.apply(Arrived(message={name: msgspec.json.decode(raw)}), about)
        if not isinstance(outcome, Arrived) or name not in outcome.message:
            return b""
        return msgspec.json.encode(outcome.message[name])

    def text(self, text: str) -> str:
        """Return what may be stored of loose words."""
        return text_at_edge(self._texts, text)


def edge_policy(workspace: Workspace, source: Source) -> EdgePolicy | None:
    """Return the policies of a source, None if it has none.

    Raises:
        KeyError: the snapshot refers to a version that it does not hold; the loaders refuse that.
    """
    if not source.edge:
        return None
    found = {item.id: item for item in workspace.transformations}
    used = [found[name] for name in source.edge]
    return EdgePolicy(
        [item.name for item in used],
        [change_for(item) for item in used],
        [text_change_for(item) for item in used],
    )


def object_in(raw: bytes) -> dict[str, object] | None:
    """Return the JSON object of a batch's field; None if there is none."""
    return msgspec.json.decode(raw, type=dict[str, object]) if raw else None
