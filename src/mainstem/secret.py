"""A string that never shows itself: passwords, tokens, write keys in configuration."""

from typing import Any, Final, final


@final
class Secret:
    """Wraps a secret text; `reveal()` is the only way out, so a leak has to be written on purpose."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the secret itself. Call it where it goes on the wire, nowhere else."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        raise TypeError("a Secret is not pickled: pass the settings file or environment instead")


NO_SECRET: Final = Secret("")
"""Of settings: none is given."""
