"""`hash_fields`: fields as hashes. A ready-made transformation (privacy), also at the edge.

HMAC-SHA256 (RFC 2104) under a salt; plain SHA-256 is there for advertising platforms, which compare with their own
hashes of the normalised value.
"""

import hashlib
from typing import ClassVar, Final, Literal

import msgspec

from mainstem.secret import Secret
from mainstem.transformations.base import Change
from mainstem.transformations.ready.base import ReadySpec, Tools
from mainstem.transformations.ready.disguise import keyed_hash, salt_problem
from mainstem.transformations.ready.leaves import change_texts, check_leaf_paths


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `hash_fields` is told."""

    SECRET_FIELDS: ClassVar = frozenset({"salt"})

    paths: tuple[str, ...]
    """The fields to hash: `context.traits.email`. Of an object or a list, every text and number in it, each alone.
    Hashing `userId` the same way everywhere keeps who is who; events of before have other ids."""
    salt: Secret = Secret("")
    """The secret key, 16 characters or more; changing it changes every hash. Needed for `hmac-sha256`."""
    algorithm: Literal["hmac-sha256", "sha256"] = "hmac-sha256"
    """`sha256`: without a salt, as advertising platforms want it. Whoever has a list of e-mail addresses or phone
    numbers can tell whose hash it is."""
    normalise: Literal["trim", "lower", "none"] = "trim"
    """Before hashing. `trim`: without white space around it. `lower`: that and in lower case, for e-mail addresses.
    `none`: as it is."""

    def __post_init__(self) -> None:
        check_leaf_paths(self.paths)
        if self.algorithm == "hmac-sha256" and not self.salt:
            raise ValueError("`salt` is missing; hmac-sha256 needs a secret, such as ${PII_SALT}")
        if self.algorithm == "sha256" and self.salt:
            raise ValueError("`salt` has no meaning with `sha256`; leave it out, or use hmac-sha256")

    def warnings(self) -> list[tuple[str, str]]:
        """Return what is allowed but hardly meant."""
        problem = salt_problem(self.salt) if self.salt else ""
        return [("salt", problem)] if problem else []


def make(settings: Settings, _: Tools) -> Change:
    """Return the change for these settings."""
    salt = settings.salt.reveal().encode("utf-8", "replace")
    normalise = settings.normalise

    def hashed(text: str) -> str:
        if normalise != "none":
            text = text.strip()
        if normalise == "lower":
            text = text.lower()
        if salt:
            return keyed_hash(salt, text)
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()

    return change_texts(settings.paths, hashed)


SPEC: Final = ReadySpec(
    name="hash_fields",
    title="Put hashes in place of fields",
    text="""Puts a hash in place of the named fields, 64 hexadecimal digits: the same value has the same hash
    everywhere, so that events can still be joined and counted. Numbers are hashed as they are written. true, false,
    null and blank texts stay. A value that is a hash already is hashed again.""",
    group="privacy",
    settings=Settings,
    make=make,
    edge=True,
)
