"""Does a request fit the vendor's documentation? By the JSON Schemas that a destination's module states.

mapping -> **schemas** -> sending. Always in tests; in production where a destination's delivery says
`validate_requests: true`. What is said names the field and the rule, never the value: it is a customer's.
"""

from collections.abc import Callable
from typing import Any, Final

import jsonschema_rs

from mainstem.destinations.base import Call, DestinationSpec

Check = Callable[[Call], str | None]
"""Returns what is wrong with a request, or None."""

_HIDDEN: Final = "the value"


def compile_check(spec: DestinationSpec) -> Check | None:
    """Return the check of a destination's requests; None if its module states no schema."""
    if not spec.schemas:
        return None
    compiled = [
        (one.label, jsonschema_rs.Draft202012Validator(dict(one.schema), mask=_HIDDEN, offline=True))
        for one in spec.schemas
    ]

    def check(call: Call) -> str | None:
        if call.body is None or call.body.kind not in ("json", "json_array"):
            return None
        for label, validator in compiled:
            if label and label != call.label:
                continue
            problem = _first_problem(validator, call.body.value)
            if problem:
                return f"the request does not fit {spec.title}'s documentation: {problem}"
        return None

    return check


def _first_problem(validator: jsonschema_rs.Draft202012Validator, value: Any) -> str | None:
    try:
        for error in validator.iter_errors(value):
            place = "".join(
                f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path
            )
            return f"`{place.removeprefix('.') or '$'}`: {error.message}"
    except ValueError as error:  # a number beyond what JSON tools take, a lone surrogate
        return f"it can't be checked: {error}"
    return None
