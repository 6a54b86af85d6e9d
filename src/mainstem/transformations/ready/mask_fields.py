"""`mask_fields`: stars or a fixed text in place of fields. A ready-made transformation (privacy), also at the edge."""

from typing import Annotated, Final

import msgspec

from mainstem.transformations.base import Change
from mainstem.transformations.ready.base import ReadySpec, Tools
from mainstem.transformations.ready.disguise import masked
from mainstem.transformations.ready.leaves import change_texts, check_leaf_paths


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `mask_fields` is told."""

    paths: tuple[str, ...]
    """The fields to mask: `context.traits.lastName`, `properties.items[*].note`. Of an object or a list, every text
    and number in it."""
    keep_last: Annotated[int, msgspec.Meta(ge=0, le=32)] = 0
    """How many of the last letters and digits stay; of a text that has no more than twice as many, none does."""
    mask_text: str = ""
    """A fixed text in place of stars, such as `[removed]`; then nothing of the value stays."""

    def __post_init__(self) -> None:
        check_leaf_paths(self.paths)
        if self.mask_text and self.keep_last:
            raise ValueError("`keep_last` has no meaning with `mask_text`; leave out one of them")


def make(settings: Settings, _: Tools) -> Change:
    """Return the change for these settings."""
    fixed, keep_last = settings.mask_text, settings.keep_last

    def mask(text: str) -> str:
        if fixed:
            return fixed
        short = keep_last and sum(char.isalnum() for char in text) <= 2 * keep_last
        return masked(text, 0 if short else keep_last)

    return change_texts(settings.paths, mask)


SPEC: Final = ReadySpec(
    name="mask_fields",
    title="Put stars or a fixed text in place of fields",
    text="""Puts a star in place of every letter and digit of the named fields, or a fixed text in place of the whole
    value; signs and spaces stay with stars. Numbers become texts. true, false and null stay.""",
    group="privacy",
    settings=Settings,
    make=make,
    edge=True,
)
