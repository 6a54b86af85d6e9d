"""The reasons one sender puts in the books: classes of reasons, bounded in length and number."""

from typing import Final

_REASONS: Final = 100
"""Different reasons; later new ones are counted together."""
_REASON_LIMIT: Final = 120

OTHER_REASONS: Final = "other reasons"


class Reasons:
    """What is counted by already."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def shorten(self, reason: str) -> str:
        """Return a reason as the books count it: itself, nearly always."""
        if reason in self._known:
            return reason
        short = reason if len(reason) <= _REASON_LIMIT else reason[:_REASON_LIMIT]
        if short in self._known or len(self._known) < _REASONS:
            self._known.add(short)
            return short
        return OTHER_REASONS

    def classify(self, reason: str, answer: str) -> tuple[str, str]:
        """Return the reason as the books count it, and the answer, with the reason in front if it was cut."""
        short = self.shorten(reason)
        return short, answer if short == reason else f"{reason}: {answer}"
