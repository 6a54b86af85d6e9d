"""The contract of a warehouse engine, as tests: ours run it, and so does whoever adds one.

    class TestMine(LoaderContract):
        def open_loader(self, folder: Path, namespace: str) -> Loader:
            return open_loader(Config(...), namespace, folder)

in a file of tests is all; pytest has to be there. What an engine says it can't do (`Capabilities`) is skipped. The
loader has, beside what `warehouse.loader.Loader` asks for, `quoted(name)` and `place(table)`: names in its SQL, by
which tests look at tables (`loaders.sql.SqlLoader` has them).

Each test takes a new namespace and leaves it behind: use a server that is for tests.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

# Before they are imported: then a failure shows what was compared.
pytest.register_assert_rewrite(f"{__name__}.edges", f"{__name__}.loads")

from mainstem.testing.warehouse.bench import Bench  # noqa: E402
from mainstem.testing.warehouse.edges import Edges  # noqa: E402
from mainstem.testing.warehouse.loads import Loads  # noqa: E402
from mainstem.warehouse.loader import Loader  # noqa: E402

__all__ = ["Bench", "LoaderContract"]


class LoaderContract(Loads, Edges):
    """Everything that an engine must do, but being killed (`tests/warehouse/contract/` does that to ours)."""

    names_beyond_bmp = True
    """Whether names of tables and columns may have letters beyond U+FFFF."""
    names_with_points = True
    """Whether the name of a column may have a point, quoted."""

    def open_loader(self, folder: Path, namespace: str) -> Loader:
        """Return a loader, connected, in this namespace; it need not be there yet.

        Args:
            folder: the test's own, the same for all loaders of a test.
        """
        raise NotImplementedError("say how the engine is opened: open_loader(self, folder, namespace)")

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        """The engine, in a namespace of the test's own."""
        made = Bench(
            self.open_loader,
            tmp_path,
            names_beyond_bmp=self.names_beyond_bmp,
            names_with_points=self.names_with_points,
        )
        yield made
        made.close()

    @pytest.fixture
    def loader(self, bench: Bench) -> Loader:
        """A loader whose namespace is there."""
        opened = bench.open()
        opened.check()
        return opened
