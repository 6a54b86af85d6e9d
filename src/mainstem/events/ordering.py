"""Whose event it is: the key by which events keep their order.

The key is the source plus userId, else anonymousId (design.md §1). At login the same person's key changes
from the anonymousId to the userId. `docs/concepts/ordering.md` says what is promised there and how the
`LoginLinks` of the pipeline keep the order across it.
"""


def ordering_key(source_id: str, user_id: str, anonymous_id: str) -> str:
    """Return the ordering key of an event; ids are already stringified and stripped, empty = absent."""
    if user_id:
        return f"{source_id}:u:{user_id}"
    return f"{source_id}:a:{anonymous_id}"
