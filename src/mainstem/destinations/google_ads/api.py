"""The Google Ads API: requests, look-ups and answers.

Follows https://developers.google.com/google-ads/api/rest/overview (v23, read 2026-11). Auth: an OAuth access token in
Authorization, and the `developer-token` of whoever calls; `login-customer-id` names the manager account through which
a client account is reached.

RudderStack keeps the developer token in its service, and its transformer hands that service a description of what to
send (a conversion action by its name, a job that is yet to be made). A destination without a developer token makes
the same descriptions, which is how they can be compared; with one it makes Google's requests.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

import msgspec

from mainstem.destinations.base import (
    Answer,
    Call,
    Delivered,
    Delivery,
    MapContext,
    Rejected,
    Request,
    Response,
    Retry,
    Unit,
)
from mainstem.destinations.kit.batching import with_body
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of, ok, or_postpone
from mainstem.destinations.kit.refuse import postpone, refuse
from mainstem.destinations.kit.values import mapping, sequence, text
from mainstem.secret import Secret

Json = Any

TOKEN_URL: Final = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
SCOPE: Final = "https://www.googleapis.com/auth/adwords"
API: Final = "https://googleads.googleapis.com/v23"
LOOKUP_CACHE_S: Final = 24 * 3600.0
"""Names of conversion actions and custom variables change rarely."""
_TOO_RECENT_S: Final = 6 * 3600.0
"""Google takes up to this long to know a click or a new conversion action (`TOO_RECENT_*`)."""
_CONSENTS: Final = frozenset(("UNSPECIFIED", "UNKNOWN", "GRANTED", "DENIED"))
_PASSING: Final = frozenset(("internalError", "quotaError", "databaseError"))
"""Kinds of error that pass: https://developers.google.com/google-ads/api/docs/best-practices/error-types."""


def plain_id(value: Json) -> str:
    """Return a customer's id without the dashes that Google shows it with."""
    return text(value or "").replace("-", "").strip()


def access_token(context: MapContext) -> str:
    """Return the OAuth access token."""
    token = context.secret.get("access_token")
    return token or postpone("there is no access token; connect the Google account again", 500)


def headers_of(token: str, developer_token: Secret, login_customer_id: str) -> dict[str, str]:
    """Return a request's headers.

    Args:
        login_customer_id: of the manager account, empty without one.
    """
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    if login_customer_id:
        headers["login-customer-id"] = login_customer_id
    if developer_token:
        headers["developer-token"] = developer_token.reveal()
    return headers


def consent_status(value: Json) -> str:
    """Return a consent as the API names it; what it has no name for is UNKNOWN."""
    if value is None or value == "":
        return "UNSPECIFIED"
    return value if isinstance(value, str) and value in _CONSENTS else "UNKNOWN"


def quoted(value: str) -> str:
    """Return a text as GAQL writes it in a query."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def search(
    customer_id: str, query: str, headers: Mapping[str, str], what: str
) -> Generator[Call, Answer, list[dict[str, Json]]]:
    """Look up rows by a GAQL query; the answer is kept for a day.

    Args:
        what: names the look-up in reasons.
    """
    answer = yield json_call(
        f"{API}/customers/{customer_id}/googleAds:searchStream",
        {"query": query},
        headers=headers,
        label="googleAds:searchStream",
        cache_s=LOOKUP_CACHE_S,
    )
    or_postpone(answer, what)
    if not ok(answer):
        refuse(f"{what}: http {answer.status}: {_message_of(answer.body)}", answer.status)
    return [
        row
        for part in sequence(answer.body)
        for row in sequence(mapping(part).get("results"))
        if isinstance(row, dict)
    ]


def _message_of(body: Json) -> str:
    parts = sequence(body) or [body]
    return text(mapping(mapping(parts[0]).get("error")).get("message") or "no message")[:300]


# ---------------------------------------------------------------- offline user data jobs


def job_calls(
    customer_id: str, job: Json, operations: Json, headers: Mapping[str, str]
) -> Generator[Call, Answer, tuple[Call, dict[int, str]]]:
    """Make an offline user data job, put its operations in, and return the call that starts it.

    A job that is made and not started does nothing, so making it may be repeated.

    Args:
        operations: the body of `addOperations`.

    Returns:
        The call, and the operations that Google does not take: their place and why.
    """
    made = yield json_call(
        f"{API}/customers/{customer_id}/offlineUserDataJobs:create", job, headers=headers, label="job:create"
    )
    _require(made, "making the job")
    name = text(mapping(made.body).get("resourceName") or "")
    if not name:
        postpone("making the job: the answer names none")
    added = yield json_call(
        f"{API}/{name}:addOperations", operations, headers=headers, label="job:addOperations"
    )
    _require(added, "adding to the job")
    run = json_call(f"{API}/{name}:run", {}, headers=headers, label="job:run")
    return run, partial_failures(added.body, "operations")


def _require(answer: Answer, what: str) -> None:
    or_postpone(answer, what)
    if not ok(answer):
        reasons = _errors(mapping(answer.body).get("error"))
        refuse(f"{what}: http {answer.status}: {reasons[0][2] if reasons else _message_of(answer.body)}")


# ---------------------------------------------------------------- what answers say


def _errors(status: Json) -> list[tuple[int | None, str, str]]:
    """Return (place in the request's list, the error's code, what it says) for each error of a google.rpc.Status."""
    found: list[tuple[int | None, str, str]] = []
    for detail in sequence(mapping(status).get("details")):
        for error in sequence(mapping(detail).get("errors")):
            code = mapping(mapping(error).get("errorCode"))
            kind, name = next(iter(code.items()), ("", ""))
            place = None
            for element in sequence(mapping(mapping(error).get("location")).get("fieldPathElements")):
                if isinstance(index := mapping(element).get("index"), int) and place is None:
                    place = index
            found.append(
                (place, f"{kind}.{name}", f"{name}: {text(mapping(error).get('message') or '')}"[:500])
            )
    return found


def partial_failures(body: Json, field: str) -> dict[int, str]:
    """Return which entries of a request's list were not taken, and why; empty = all were.

    Args:
        field: the list's name, which an error that names no place falls back to being about as a whole (-1).
    """
    failed: dict[int, str] = {}
    status = mapping(body).get("partialFailureError")
    for place, _, said in _errors(status):
        failed.setdefault(-1 if place is None else place, said)
    if status and not failed:
        failed[-1] = text(mapping(status).get("message") or f"{field}: partial failure")
    return failed


def _delivery(code: str, said: str) -> Delivery:
    kind, _, name = code.partition(".")
    if name.startswith("TOO_RECENT"):
        return Retry(said, after_s=_TOO_RECENT_S, answer="200")
    if kind in _PASSING:
        return Retry(said, throttled=kind == "quotaError", answer="200")
    return Rejected(said, answer="200")


def classify(request: Request, response: Response) -> Delivery | None:
    """A 200 may carry `partialFailureError`; an error says in its details whether it passes."""
    del request
    body = answer_of(response).body
    if response.status == 200:
        status = mapping(body).get("partialFailureError")
        if status:
            errors = _errors(status)
            if errors:
                return _delivery(errors[0][1], errors[0][2])
            return Rejected(text(mapping(status).get("message") or "partial failure"), answer="200")
        return Delivered("200", acceptance="accepted")
    if response.status in (400, 403):
        for _, code, said in _errors(mapping(body).get("error")):
            if code.partition(".")[0] in _PASSING:
                return Retry(said, throttled=code.startswith("quotaError"), answer=str(response.status))
    return None


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """One result per conversion: `partialFailureError` names the places of those that were not taken."""
    del call, request
    if response.status != 200:
        return None
    status = mapping(answer_of(response).body).get("partialFailureError")
    taken: Delivery = Delivered("200", acceptance="accepted")
    if not status:
        return [taken] * len(units)
    errors = _errors(status)
    by_place: dict[int, Delivery] = {}
    for place, code, said in errors:
        if place is not None:
            by_place.setdefault(place, _delivery(code, said))
    if not by_place:
        said = text(mapping(status).get("message") or "partial failure")
        whole = _delivery(errors[0][1], errors[0][2]) if errors else Rejected(said, answer="200")
        return [whole] * len(units)
    return [by_place.get(place, taken) for place in range(len(units))]


def with_list(calls: Sequence[Call], field: str) -> Call:
    """Return one call with the lists of all in order; the rest is the first's."""
    first = calls[0]
    assert first.body is not None  # noqa: S101 - all calls here have one
    items = [item for call in calls if call.body is not None for item in call.body.value[field]]
    return msgspec.structs.replace(
        first, body=msgspec.structs.replace(first.body, value={**first.body.value, field: items})
    )


def validate_only(config: Any, call: Call) -> Call | None:
    """Return an upload as one that is checked and not taken; None for a request that knows no such form."""
    del config
    if call.body is None or not call.label.lstrip("/").startswith("upload"):
        return None
    return with_body(call, {**call.body.value, "validateOnly": True})
