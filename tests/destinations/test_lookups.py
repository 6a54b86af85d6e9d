"""Every mapping that looks things up ends well, whatever the event is and whatever it is answered."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstem.destinations import catalog
from mainstem.destinations.base import Answer, Call, Dialogue, Refusal, Request, Retry, Skip
from mainstem.destinations.kit.call import encode
from mainstem.destinations.kit.dialogue import drive
from tests.destinations.events import CONTEXT, config_of, event_of
from tests.destinations.golden import cases
from tests.destinations.test_contract import MAPPED, _json, _messages

ASKING = [
    name
    for name in MAPPED
    if any("lookUp" in payload for case in cases(name) for payload in case.get("payloads", ()))
]
_NAMES = ["id", "name", "type", "data", "results", "result", "errors", "records", "contacts", "contact"]
_NAMES += ["success", "status", "accounts", "tags", "lists", "fields", "total", "totalSize", "searchRecords"]
_NAMES += ["hasUniqueValue", "access_token", "instance_url", "email", "users", "user", "organization"]
_bodies = st.recursive(
    _json,
    lambda inner: st.dictionaries(st.sampled_from(_NAMES), inner | st.lists(inner, max_size=3), max_size=5),
    max_leaves=8,
)
_answers = st.builds(Answer, st.sampled_from((200, 200, 200, 200, 201, 204, 404, 400, 429, 500, 0)), _bodies)


@pytest.mark.parametrize("name", ASKING)
@given(
    message=_messages,
    answers=st.lists(_answers, min_size=1, max_size=6),
    email=st.sampled_from(("", "a@b.c")),
)
@settings(max_examples=60, deadline=None)
def test_any_answer_is_understood_or_refused(
    name: str, message: dict[str, Any], answers: list[Answer], email: str
) -> None:
    spec = catalog.find_spec(name)
    assert spec is not None
    assert spec.mapper is not None
    if email:
        message = {**message, "userId": "u1", "traits": {"email": email, "Plan": 1}}
    before = repr(message)
    for case in cases(name):
        # The case's own event too: it gets past the first checks.
        for one in (
            message,
            {**case["message"], "traits": message.get("traits", case["message"].get("traits"))},
        ):
            mapped = spec.mapper(config_of(name, case["config"]))(event_of(one), CONTEXT)
            for payload in mapped if isinstance(mapped, tuple) else ():
                if not isinstance(payload, Dialogue):
                    continue
                asked: list[Call] = []

                def ask(call: Call, asked: list[Call] = asked) -> Answer:
                    asked.append(call)
                    encode(call).url.encode()
                    assert len(asked) < 200, "it asks without end"
                    return answers[len(asked) % len(answers)]

                ended = drive(payload.start(), ask)
                assert isinstance(ended, tuple | Refusal | Skip | Retry)
                for call in ended if isinstance(ended, tuple) else ():
                    assert isinstance(call, Request | Call)
                    if isinstance(call, Call):
                        encode(call).url.encode()
    assert repr(message) == before
