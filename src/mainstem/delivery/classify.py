"""What an HTTP answer means for the event: delivered, to be tried again, or never.

The default for destinations without a `classify` of their own. `docs/concepts/delivery.md` has the table.

* 2xx: delivered.
* 408, 425: again. 429: again, and the destination slows down.
* 5xx: again, and it counts against the destination as a whole.
* 401, 402, 403, 407: again, against the destination as a whole: a key that was revoked or an account that
  was not paid is repaired by people, and until then nothing may be lost. Where only one user's events are
  refused like that, they are parked and become dead letters when the retry window is over.
* 3xx (307 and 308 have been followed already): never; the configured URL is to be changed.
* an address that the guard refuses: again, against the destination as a whole: the URL or the setting is
  repaired by people. Where only some events choose such a host, their users are parked like in 401.
* every other 4xx: never; the destination read the event and does not want it.
"""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from mainstem.delivery.errors import Refused, TransportError
from mainstem.destinations.base import Delivered, Delivery, Rejected, Request, Response, Retry
from mainstem.destinations.render import Redactor, cut

_AGAIN: Final = frozenset((408, 425))
_NEEDS_PEOPLE: Final = {
    401: "credentials refused",
    402: "payment required",
    403: "forbidden",
    407: "proxy credentials refused",
}
_ANSWER_LIMIT: Final = 512


def classify_http(request: Request, response: Response) -> Delivery:
    """Return what the answer means; pure."""
    status = response.status
    if 200 <= status < 300:
        return Delivered(str(status))
    answer = _answer(request, response)
    if status == 429:
        return Retry("http 429", after_s=retry_after_s(response.headers), throttled=True, answer=answer)
    if status in _AGAIN or status < 200:
        return Retry(f"http {status}", after_s=retry_after_s(response.headers), answer=answer)
    if status >= 500 or status in _NEEDS_PEOPLE:
        hint = _NEEDS_PEOPLE.get(status)
        reason = f"http {status}: {hint}" if hint else f"http {status}"
        after_s = retry_after_s(response.headers)
        return Retry(reason, after_s=after_s, destination_wide=True, answer=answer)
    if status < 400:
        return Rejected(f"http {status}: a redirect that is not followed; set the URL it leads to", answer)
    return Rejected(f"http {status}", answer)


def classify_failure(error: TransportError) -> Delivery:
    """Return what it means that there was no answer."""
    kind = type(error).__name__
    if isinstance(error, Refused):
        return Retry("address refused", destination_wide=True, answer=str(error))
    if not error.retryable:
        return Rejected(f"not sent: {kind}", str(error))
    return Retry(f"no answer: {kind}", destination_wide=True, answer=str(error))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return Retry-After in seconds; a date is read against the answer's own Date, so no clock is needed."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
        now = parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError):  # malformed, or one of the two without a time zone
        return None


def _answer(request: Request, response: Response) -> str:
    text = response.body[: 4 * _ANSWER_LIMIT].decode("utf-8", "replace")
    if request.secrets:
        text = Redactor(request.secrets).text(text)
    return cut(f"{response.status} {text}".strip(), _ANSWER_LIMIT)
