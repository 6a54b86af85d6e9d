"""What came out: read back without the product's own code, and judged.

Events are counted by messageId; a user's order is told by a number that each event carries.
"""

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mainstem.testing.sink import Received

Event = Mapping[str, Any]


def accepted(requests: Iterable[Received]) -> list[Event]:
    """The events that a sink has taken with an answer of 2xx, in the order of arrival."""
    return [request.json() for request in requests if 200 <= request.status < 300]


def archived(root: Path) -> list[Event]:
    """The lines of every archive file below `root`, in the order of the log within a partition."""
    return archived_lines(path.read_bytes() for path in sorted(root.glob("**/source=*/**/*.jsonl.gz")))


def archived_lines(files: Iterable[bytes]) -> list[Event]:
    """The lines of archive files, given as they lie in a folder or bucket."""
    return [json.loads(line) for data in files for line in gzip.decompress(data).splitlines()]


def ids(events: Iterable[Event]) -> list[str]:
    """The messageIds."""
    return [event["messageId"] for event in events]


def assert_exactly_once(expected: Iterable[str], found: Iterable[str], where: str) -> None:
    """Each expected id is found once, and nothing else."""
    counts = Counter(found)
    expected = set(expected)
    missing = sorted(expected - counts.keys())
    repeated = sorted(name for name, count in counts.items() if count > 1)
    unknown = sorted(counts.keys() - expected)
    assert not missing, f"{where}: {len(missing)} of {len(expected)} are missing: {missing[:5]}"
    assert not repeated, f"{where}: {len(repeated)} came more than once: {repeated[:5]}"
    assert not unknown, f"{where}: {len(unknown)} that nobody sent: {unknown[:5]}"


def assert_in_order(
    events: Sequence[Event], *, user: Callable[[Event], str], number: Callable[[Event], int], where: str
) -> None:
    """Within each user, numbers rise."""
    seen: dict[str, list[int]] = defaultdict(list)
    for event in events:
        seen[user(event)].append(number(event))
    wrong = {name: numbers for name, numbers in seen.items() if numbers != sorted(numbers)}
    assert not wrong, f"{where}: out of order for {len(wrong)} users: {dict(list(wrong.items())[:3])}"


def user_of(event: Event) -> str:
    """Whose order an event belongs to: the userId, else the anonymousId."""
    return str(event.get("userId") or event.get("anonymousId"))


def number_of(event: Event) -> int:
    """The place of a `serving.track` event in its user's order."""
    number = event["properties"]["n"]
    assert isinstance(number, int)
    return number
