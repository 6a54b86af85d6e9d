"""Sampling: a share of the users, always the same ones. For connections' filters and for transformations.

The hash is XXH3-64 of a fixed salt and the userId, else the anonymousId, else the messageId. No source, no
destination and no time goes into it: the same 10 % of users pass every 10 % sample of every connection, and
they are among the 20 % of every 20 % sample, so that what tools see of a person fits together.
"""

from typing import Final

import xxhash

_SALT: Final = b"mainstem-sample-v1\x00"
_RANGE: Final = 1 << 64


def threshold_of(percent: float) -> int:
    """Return the hash value below which `percent` of the users lie."""
    return round(min(max(percent, 0.0), 100.0) / 100 * _RANGE)


def in_sample(user_id: str, anonymous_id: str, message_id: str, threshold: int) -> bool:
    """Tell whether the user with these ids (empty = absent) is in the sample."""
    who = user_id or anonymous_id or message_id
    # surrogatepass: an id with half a character is odd, but it is still one person's.
    return xxhash.xxh3_64_intdigest(_SALT + who.encode("utf-8", "surrogatepass")) < threshold
