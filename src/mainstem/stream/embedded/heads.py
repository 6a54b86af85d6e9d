"""How processes tell one another that records were committed: a small file mapped into all of them.

The file holds one row per writing process: a bell (a counter of commits) and the next offset of every
partition as that process last left them. A row has one writer, so no update can be overtaken by an older one;
a reader takes the highest value of a column. Rows of dead processes stay: what they say was true and offsets
only grow. The file is a hint, never the truth: a writer killed between commit and ring is found by upkeep,
which asks the database every second.
"""

import fcntl
import mmap
import os
from pathlib import Path
from typing import Final

from mainstem.stream.base import StreamError

_ROWS: Final = 64
_WORD: Final = 8


class Heads:
    """The mapped file, as one process sees it."""

    def __init__(self, directory: Path, partitions: int) -> None:
        self._directory = directory
        self._partitions = partitions
        size = _WORD * _ROWS * (1 + partitions)
        fd = os.open(directory / "heads", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if os.fstat(fd).st_size < size:
                os.ftruncate(fd, size)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")
        self._bells = memoryview(self._map)[: _WORD * _ROWS]
        self._heard = b""
        self._nexts = [0] * partitions
        self._row: int | None = None
        self._row_fd = -1

    def claim(self) -> None:
        """Take a row of our own, to write to."""
        if self._row is not None:
            return
        slots = self._directory / "slots"
        slots.mkdir(exist_ok=True)
        for row in range(_ROWS):
            fd = os.open(slots / f"{row}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            self._row, self._row_fd = row, fd
            return
        raise StreamError(f"{self._directory}: {_ROWS} processes append already")

    def ring(self, nexts: list[int]) -> None:
        """Tell everybody the next offsets after a commit of ours."""
        if self._row is None:
            return
        start = _ROWS + self._row * self._partitions
        for partition, offset in enumerate(nexts, start):
            self._words[partition] = offset
        self._words[self._row] = (self._words[self._row] + 1) & 0xFFFF_FFFF_FFFF_FFFF

    def raise_to(self, nexts: list[int]) -> None:
        """Take in next offsets that the database told."""
        self._nexts = [max(pair) for pair in zip(self._nexts, nexts, strict=True)]

    def changed(self) -> bool:
        """Tell whether a bell rang since `nexts` was last computed."""
        return bytes(self._bells) != self._heard

    def nexts(self) -> list[int]:
        """Return the next offset of every partition, as far as is known."""
        heard = bytes(self._bells)
        if heard != self._heard:
            width = self._partitions
            for row in range(_ROWS):
                span = slice(row * _WORD, (row + 1) * _WORD)
                if heard[span] != self._heard[span]:
                    start = _ROWS + row * width
                    self.raise_to(self._words[start : start + width].tolist())
            self._heard = heard
        return self._nexts

    def close(self) -> None:
        """Unmap, and free our row."""
        if self._row_fd >= 0:
            os.close(self._row_fd)
            self._row_fd = -1
            self._row = None
        self._words.release()
        self._bells.release()
        self._map.close()
