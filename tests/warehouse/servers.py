"""What the tests of database servers share: no connection, and a server that dies."""

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from mainstem.secret import Secret
from mainstem.warehouse.loader import Loader, TableFailed, WarehouseError
from tests.warehouse.contract.rows import EVENT, create, event, ids, load_of, staged

WRONG = Secret("not-the-password")


class Mortal(Protocol):
    """A server that can be killed, and started again on what it left."""

    def kill9(self) -> None: ...

    def restart(self) -> None: ...


def no_connection(
    open_: Callable[[Any], Loader], good: Any, refused: Iterable[tuple[Mapping[str, Any], str]]
) -> None:
    """See that each of the changes to good settings is refused in such words, and that none shows the password."""
    for change, words in refused:
        with pytest.raises(WarehouseError, match=words) as failed:
            open_(msgspec.structs.replace(good, **change))
        assert WRONG.reveal() not in str(failed.value)


def dies_and_comes_back(server: Mortal, open_: Callable[[], Loader], folder: Path) -> None:
    """See that a load which its server did not survive is in wholly or not at all, and can be made again."""
    loader = open_()
    create(loader, "orders", EVENT)
    loader.load(load_of(1), staged(loader, folder, "orders", EVENT, [event("1")]))
    table = staged(loader, folder, "orders", EVENT, [event(f"{n}", 2) for n in range(5_000)])
    timer = threading.Timer(0.02, server.kill9)
    timer.start()
    with pytest.raises(WarehouseError) as failed:  # noqa: PT012 - some of them go well
        for number in range(2, 1_000):
            loader.load(load_of(number), table)
    timer.join()
    assert not isinstance(failed.value, TableFailed), "the server's trouble is not the table's"
    loader.close()
    server.restart()
    again = open_()
    before = len(again.loads("shop", limit=1_000))
    assert len(ids(again, "n", "orders")) in ((1,) if before == 1 else (5_000, 5_001))
    again.load(load_of(1_001), table)
    assert len(ids(again, "n", "orders")) == 5_000
    again.close()
