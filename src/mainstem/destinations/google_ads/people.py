"""A person's identifiers as Google wants them: normalised, then hashed with SHA-256.

Follows https://developers.google.com/google-ads/api/docs/conversions/enhanced-conversions/web#hashing and
https://support.google.com/google-ads/answer/7659867 (read 2026-11): lower case without white space around; phone
numbers in E.164; of Gmail addresses no dots and nothing from a plus on.
"""

import re
from typing import Any, Final

from mainstem.destinations.kit.refuse import refuse
from mainstem.destinations.kit.values import is_email, sha256, text, truthy

Json = Any

_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")
_NOT_IN_PHONE: Final = re.compile(r"[\s().\-+]")
_PHONE: Final = re.compile(r"\d{6,15}")
_GMAIL: Final = frozenset(("gmail.com", "googlemail.com"))


def is_hash(value: Json) -> bool:
    """Tell whether a value looks like a SHA-256 in hexadecimal."""
    return isinstance(value, str) and _HASH.fullmatch(value.strip()) is not None


def email(value: Json) -> str | None:
    """Return an e-mail address as it is hashed; None if it is none."""
    address = text(value).strip().lower()
    if not is_email(address):
        return None
    local, _, domain = address.rpartition("@")
    if domain in _GMAIL:
        local = local.partition("+")[0].replace(".", "")
        return f"{local}@{domain}" if local else None
    return address


def phone(value: Json) -> str | None:
    """Return a phone number as it is hashed: a plus and digits; None if there is anything else in it."""
    digits = _NOT_IN_PHONE.sub("", text(value))
    return f"+{digits}" if _PHONE.fullmatch(digits) else None


def name(value: Json) -> str | None:
    """Return a name, or a street, as it is hashed."""
    return text(value).strip().lower() or None


_WAYS: Final = {"email": email, "phone": phone}


def hashed(kind: str, value: Json, *, hashing: bool, field: str) -> str | None:
    """Return an identifier as Google takes it; None without one, or if it is not what it should be.

    Args:
        kind: email, phone; anything else is a name.
        hashing: whether it is hashed here; otherwise it has to be a hash already.
        field: names it in a refusal.

    Raises:
        NotSent: it is a hash although it is to be hashed, or none although it should be: nobody would be found.
    """
    if not truthy(value) or not isinstance(value, str | int | float):
        return None
    if hashing == is_hash(value):
        refuse(
            f"`{field}` is hashed already; switch hashing off, or send it as it is"
            if hashing
            else f"`{field}` is not hashed; switch hashing on, or send its SHA-256"
        )
    if not hashing:
        return text(value).strip()
    normal = _WAYS.get(kind, name)(value)
    return None if normal is None else sha256(normal)
