"""`metadata(event)`: a dict that notes when the code looks at the destination.

The fields that begin with `destination` differ between the destinations that one transformation serves. As long as
the code looks at none of them, its results hold for all of them, and it runs once.
"""

from collections.abc import Iterator
from typing import Any, Final

_PREFIX: Final = "destination"


class Sight:
    """What the code of one batch looked at."""

    destination = False


class Metadata(dict[str, Any]):
    """The event's metadata; the destination's fields are put in at the first look at any of them, or at the whole."""

    __slots__ = ("_hidden", "_sight")

    def __init__(self, fields: dict[str, Any], sight: Sight) -> None:
        super().__init__({name: value for name, value in fields.items() if not name.startswith(_PREFIX)})
        self._hidden: dict[str, Any] | None = {
            name: value for name, value in fields.items() if name.startswith(_PREFIX)
        }
        self._sight = sight

    def reveal(self) -> None:
        """Put in what was held back, and note it."""
        hidden = self._hidden
        if hidden is not None:
            self._hidden = None
            self._sight.destination = True
            super().update(hidden)

    def _look(self, name: object) -> None:
        if self._hidden is not None and isinstance(name, str) and name.startswith(_PREFIX):
            self.reveal()

    def __missing__(self, name: str) -> Any:
        if self._hidden is not None and isinstance(name, str) and name.startswith(_PREFIX):
            self.reveal()
            return self[name]
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        self._look(name)
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._look(name)
        return super().get(name, default)

    def __setitem__(self, name: str, value: Any) -> None:
        self._look(name)
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self._look(name)
        super().__delitem__(name)

    def setdefault(self, name: str, default: Any = None) -> Any:
        self._look(name)
        return super().setdefault(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        self._look(name)
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        self.reveal()
        return super().popitem()

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.reveal()
        super().update(*args, **kwargs)

    def clear(self) -> None:
        self._hidden = None
        super().clear()

    def __iter__(self) -> Iterator[str]:
        self.reveal()
        return super().__iter__()

    def __reversed__(self) -> Iterator[str]:
        self.reveal()
        return super().__reversed__()

    def __len__(self) -> int:
        self.reveal()
        return super().__len__()

    def keys(self) -> Any:
        self.reveal()
        return super().keys()

    def values(self) -> Any:
        self.reveal()
        return super().values()

    def items(self) -> Any:
        self.reveal()
        return super().items()

    def copy(self) -> dict[str, Any]:
        self.reveal()
        return dict(super().items())

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return self.copy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (self.copy(),)

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        self.reveal()
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __repr__(self) -> str:
        return repr(self.copy())
