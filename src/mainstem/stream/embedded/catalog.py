"""Which segments there are: the directory, read with the rule that makes rotation safe.

A segment counts if it is the lowest, or if the one before it is closed. Rotation prepares the next file, writes
where its offsets start, and only then closes the old one; a file left by a rotation that did not get so far is
made anew by the next.
"""

import re
import threading
from pathlib import Path
from typing import Final

from mainstem.stream.base import StreamCorrupt
from mainstem.stream.embedded.meta import Meta
from mainstem.stream.embedded.segment import SegmentInfo, SegmentMissing, connect, errors_named, read_info

_NAME: Final = re.compile(r"segment-(\d{12})\.db")


def segment_path(directory: Path, number: int) -> Path:
    """Return the file of a segment."""
    return directory / f"segment-{number:012}.db"


class Catalog:
    """The segments as this process last saw them; usable from any thread."""

    def __init__(self, directory: Path, meta: Meta) -> None:
        self._directory = directory
        self._meta = meta
        self._lock = threading.Lock()
        self._segments: tuple[SegmentInfo, ...] = ()

    def segments(self) -> tuple[SegmentInfo, ...]:
        """Return the segments, oldest first; the last one is being appended to."""
        return self._segments

    def refresh(self) -> tuple[SegmentInfo, ...]:
        """Look again.

        Raises:
            StreamCorrupt: a segment is missing in the row, or is damaged.
        """
        with self._lock:
            known = {info.number: info for info in self._segments}
            while True:
                dropped = self._meta.dropped()
                try:
                    found = self._walk(known, dropped)
                except SegmentMissing:
                    if self._meta.dropped() == dropped:
                        raise
                    continue
                if self._meta.dropped() == dropped:
                    break
            self._segments = tuple(found)
            return self._segments

    def numbers(self) -> list[int]:
        """Return the numbers of the files in the directory, whether they count or not."""
        matches = (_NAME.fullmatch(path.name) for path in self._directory.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def _walk(self, known: dict[int, SegmentInfo], dropped: int) -> list[SegmentInfo]:
        found: list[SegmentInfo] = []
        for number in self.numbers():
            if number <= dropped:
                continue
            before = found[-1] if found else None
            if before is not None and not before.closed:
                break
            if number != (before.number if before else dropped) + 1:
                missing = segment_path(self._directory, (before.number if before else dropped) + 1)
                raise StreamCorrupt(f"{missing} is missing, and {number} is there")
            info = known.get(number)
            if info is None or not (info.closed and info.indexed):
                info = self._look(number)
            if info is None:
                if before is None:
                    break
                raise StreamCorrupt(f"{segment_path(self._directory, number)}: never started")
            if len(info.firsts) != self._meta.partitions:
                raise StreamCorrupt(
                    f"{info.path}: {len(info.firsts)} partitions, not {self._meta.partitions}"
                )
            if before is not None and info.firsts != before.nexts:
                raise StreamCorrupt(f"{info.path}: its offsets do not continue those of {before.path}")
            found.append(info)
        return found

    def _look(self, number: int) -> SegmentInfo | None:
        path = segment_path(self._directory, number)
        with errors_named(path):
            connection = connect(path)
            try:
                return read_info(connection, path)
            finally:
                connection.close()
