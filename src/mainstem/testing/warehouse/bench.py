"""An engine under test."""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from mainstem.warehouse.loader import Loader

Open = Callable[[Path, str], Loader]
"""(a folder of the test's own, a namespace that nobody else uses) -> a connected loader."""


class Bench:
    """An engine under test: a namespace that nobody else uses, and any number of loaders in it."""

    def __init__(
        self, open_: Open, folder: Path, *, names_beyond_bmp: bool = True, names_with_points: bool = True
    ) -> None:
        """
        Args:
            names_beyond_bmp: whether names may have letters beyond U+FFFF.
            names_with_points: whether the name of a column may have a point, quoted.
        """
        self.folder = folder
        self.namespace = f"t_{uuid4().hex[:12]}"
        self.names_beyond_bmp = names_beyond_bmp
        self.names_with_points = names_with_points
        self._open = open_
        self._opened: list[Loader] = []

    def open(self) -> Loader:
        """Return a loader of its own."""
        loader = self._open(self.folder, self.namespace)
        self._opened.append(loader)
        return loader

    def close(self) -> None:
        """Close all loaders that were opened."""
        for loader in self._opened:
            loader.close()
        self._opened.clear()
