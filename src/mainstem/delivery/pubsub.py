"""The sending end for Google Pub/Sub: publishes by its REST API; a request is taken whole or not at all.

https://cloud.google.com/pubsub/docs/reference/rest/v1/projects.topics/publish. Messages carry their user as the
ordering key; requests for a topic are sent one after the other, so that subscriptions with ordering get them in order.
"""

import base64
from collections.abc import Sequence
from typing import Any, Final

from mainstem.clock import Clock
from mainstem.delivery.classify import classify_failure, classify_http, retry_after_s
from mainstem.delivery.each_key import WAITS
from mainstem.delivery.errors import TransportError
from mainstem.delivery.google_token import google_tokens
from mainstem.delivery.transport import Transport
from mainstem.destinations.base import Delivered, Delivery, Rejected, Request, Response, Retry, StreamMessage
from mainstem.destinations.googlepubsub import Config
from mainstem.destinations.kit.body import json_bytes, quoted
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.values import mapping, sequence
from mainstem.destinations.render import cut

_ENDPOINT: Final = "https://pubsub.googleapis.com"
_SCOPE: Final = "https://www.googleapis.com/auth/pubsub"
_MOST: Final = 1000
_MOST_BYTES: Final = 7_000_000
"""Of values, of the 10 MB that a request may be long with them in Base64."""
_LONGEST_KEY: Final = 1024
_ANSWER_LIMIT: Final = 300


class PubSubSink:
    """A `StreamSink` for the topics of one project."""

    def __init__(self, config: Config, *, transport: Transport, clock: Clock, timeout_s: float) -> None:
        self._base = (
            f"{(config.endpoint or _ENDPOINT).rstrip('/')}/v1/projects/{quoted(config.project_id)}/topics/"
        )
        self._tokens = google_tokens(config.credentials, _SCOPE, transport, clock, timeout_s=timeout_s)
        self._transport = transport
        self._timeout_s = timeout_s

    async def send(self, messages: Sequence[StreamMessage]) -> Sequence[Delivery]:
        """Send messages in this order; one result per message."""
        results: list[Delivery] = [WAITS] * len(messages)
        failed: set[bytes] = set()
        for group in _groups(messages):
            await self._publish(messages, group, results, failed)
        return results

    async def close(self) -> None:
        """The transport is not ours to close."""

    async def _publish(
        self,
        messages: Sequence[StreamMessage],
        group: Sequence[int],
        results: list[Delivery],
        failed: set[bytes],
    ) -> None:
        """Send those of one topic, but for users who wait; put down what became of each."""
        kept = [index for index in group if messages[index].key not in failed]
        if not kept:
            return
        url = f"{self._base}{quoted(messages[kept[0]].topic)}:publish"
        outcome = await self._post(
            url, json_bytes({"messages": [_message(messages[index]) for index in kept]})
        )
        if isinstance(outcome, Rejected) and len(kept) > 1:
            # Google does not say which message the request was refused for: one must not cost the others.
            half = len(kept) // 2
            await self._publish(messages, kept[:half], results, failed)
            await self._publish(messages, kept[half:], results, failed)
            return
        ids = [str(one)[:64] for one in outcome] if isinstance(outcome, list) else []
        for place, index in enumerate(kept):
            if not isinstance(outcome, list):
                results[index] = outcome
                if isinstance(outcome, Retry) and messages[index].key:
                    failed.add(messages[index].key)
            elif place < len(ids):
                results[index] = Delivered(ids[place], acceptance="accepted")
            else:
                results[index] = Delivered("200")

    async def _post(self, url: str, body: bytes) -> list[Any] | Delivery:
        """Return the ids that the messages got, or what the failure means for all of them."""
        for again in (True, False):
            token = await self._tokens.current()
            if not isinstance(token, str):
                return token
            headers = (("Authorization", f"Bearer {token}"), ("Content-Type", "application/json"))
            request = Request("POST", url, headers, body, (token,))
            try:
                response = await self._transport.send(request, timeout_s=self._timeout_s)
            except TransportError as error:
                return classify_failure(error)
            if response.status == 401 and again:
                # It may have ended before its time: once more with a new one.
                self._tokens.refused(token)
                continue
            break
        if response.status == 200:
            return sequence(mapping(answer_of(response).body).get("messageIds"))
        return _failure(request, response)


def _groups(messages: Sequence[StreamMessage]) -> list[list[int]]:
    """Return the messages of each request: of one topic, in order."""
    groups: list[list[int]] = []
    open_: dict[str, tuple[list[int], int]] = {}
    for index, message in enumerate(messages):
        group, total = open_.get(message.topic, ([], 0))
        length = len(message.value) + len(message.key)
        if not group or len(group) >= _MOST or total + length > _MOST_BYTES:
            group, total = [], 0
            groups.append(group)
        group.append(index)
        open_[message.topic] = (group, total + length)
    return groups


def _message(message: StreamMessage) -> dict[str, Any]:
    attributes = {name: value.decode("utf-8", "replace") for name, value in message.headers}
    key = message.key.decode("utf-8", "replace")
    return {
        "data": base64.b64encode(message.value).decode(),
        **({"attributes": attributes} if attributes else {}),
        **({"orderingKey": key} if key and len(message.key) <= _LONGEST_KEY else {}),
    }


def _failure(request: Request, response: Response) -> Delivery:
    """Return what an error means (https://cloud.google.com/pubsub/docs/reference/error-codes)."""
    error = mapping(mapping(answer_of(response).body).get("error"))
    status = str(error.get("status") or "")
    said = cut(str(error.get("message") or ""), _ANSWER_LIMIT)
    if status == "NOT_FOUND":
        # The topic is not there: of this destination's topics it may be the only one.
        return Retry("pubsub NOT_FOUND", answer=said)
    if status == "RESOURCE_EXHAUSTED":
        after_s = retry_after_s(response.headers)
        return Retry("pubsub RESOURCE_EXHAUSTED", throttled=True, after_s=after_s, answer=said)
    if status == "FAILED_PRECONDITION":
        # A key of the account's encryption, or the topic's state: people repair it.
        return Retry("pubsub FAILED_PRECONDITION", destination_wide=True, answer=said)
    return classify_http(request, response)
