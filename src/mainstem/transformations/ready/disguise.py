"""What is put in place of personal data: stars, nothing, a keyed hash, or a token that looks alike.

Part of the privacy transformations. Hashes and tokens are HMAC-SHA256 (RFC 2104) under a secret salt: the same data
gives the same text everywhere, so joins still work, and nobody without the salt can try out candidates.
"""

import hashlib
import hmac
import ipaddress
from typing import Annotated, Final, Literal

import msgspec

from mainstem.secret import Secret

How = Literal["mask", "remove", "hash", "tokenise"]
KeepLast = Annotated[int, msgspec.Meta(ge=0, le=4)]
"""Four digits at most: with more, the issuer's number of a card could be put together again (PCI DSS 3.4)."""

SALT_CHARACTERS: Final = 16
STAR: Final = "*"


def salt_problem(salt: Secret) -> str:
    """Return what is weak about a salt; empty if nothing is."""
    if len(salt.reveal()) < SALT_CHARACTERS:
        return (
            f"is shorter than {SALT_CHARACTERS} characters; whoever guesses it can try out every phone number"
        )
    return ""


def masked(text: str, keep_last: int) -> str:
    """Return the text with every letter and digit as a star, but for the last few; signs between them stay."""
    if not keep_last:
        return "".join([STAR if char.isalnum() else char for char in text])
    kept: list[str] = []
    for char in reversed(text):
        if not char.isalnum():
            kept.append(char)
        elif keep_last:
            kept.append(char)
            keep_last -= 1
        else:
            kept.append(STAR)
    return "".join(reversed(kept))


def keyed_hash(salt: bytes, text: str) -> str:
    """Return HMAC-SHA256 in hexadecimal digits; lone surrogates count as `?`."""
    return hmac.digest(salt, text.encode("utf-8", "replace"), hashlib.sha256).hex()


def token(salt: bytes, kind: str, normal: str) -> str:
    """Return a text of the kind's form that belongs to nobody, always the same for the same data.

    E-mail: at the reserved top-level domain `.invalid` (RFC 2606). Phone: country code 999, never assigned. Card: as
    many digits, check digit wrong. IBAN: as long, check digits 00. IP: 240.0.0.0/4 or 2001:db8::/32, which are never
    routed (RFC 1112, RFC 3849). Social security number: group 00, never issued. All else: 24 hexadecimal digits.
    """
    digest = hmac.digest(salt, f"{kind}:{normal}".encode("utf-8", "replace"), hashlib.sha256)
    number = int.from_bytes(digest[:16])
    match kind:
        case "email":
            return f"{digest.hex()[:20]}@token.invalid"
        case "phone":
            return f"+999{number % 10**10:010}"
        case "card":
            body = f"{number % 10 ** (len(normal) - 2):0{len(normal) - 2}}"
            return _with_wrong_check_digit(f"0{body}")
        case "iban":
            return f"{normal[:2]}00{number % 10 ** (len(normal) - 4):0{len(normal) - 4}}"
        case "ip" if ":" in normal:
            return str(ipaddress.IPv6Address((0x20010DB8 << 96) | (number % 2**96)))
        case "ip":
            return str(ipaddress.IPv4Address((0xF << 28) | (number % 2**28)))
        case "ssn":
            return f"9{number % 100:02}-00-{number // 100 % 10_000:04}"
        case _:
            return digest.hex()[:24]


def _with_wrong_check_digit(body: str) -> str:
    total = sum(
        digit if place % 2 else (digit * 2 - 9 if digit > 4 else digit * 2)
        for place, digit in enumerate(map(int, reversed(body)))
    )
    return f"{body}{(10 - total % 10 + 5) % 10}"
