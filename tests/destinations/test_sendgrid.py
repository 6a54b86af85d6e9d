"""SendGrid: contacts in batches, custom fields, mails that are only checked."""

from typing import Any

import pytest

from mainstem.destinations.base import Answer, Refusal, Retry
from mainstem.destinations.sendgrid import SPEC
from tests.destinations.events import config_of
from tests.destinations.lookups import Desk, batched, calls, talked

CONFIG: dict[str, Any] = {
    "apiKey": "k",
    "customFieldsMapping": [{"from": "plan", "to": "plan_name"}],
    "eventNamesSettings": [{"event": "Bought"}],
    "fromEmail": "shop@b.c",
    "contents": [{"type": "text/plain", "value": "hi"}],
}
FIELDS = "GET /field_definitions"


def _identify(email: str, *lists: str) -> dict[str, Any]:
    external = [{"type": "listIds", "id": list(lists)}] if lists else []
    traits = {"email": email, "plan": "pro"}
    return {"type": "identify", "traits": traits, "context": {"externalId": external}}


def test_contacts_for_the_same_lists_go_together() -> None:
    desk = Desk({FIELDS: {"custom_fields": [{"id": "w1", "name": "plan_name"}]}})
    messages = [_identify("a@b.c"), _identify("b@b.c", "l1"), _identify("c@b.c")]
    batches, _ = batched("SENDGRID", CONFIG, messages, desk)
    made = {batch.units: batch.calls[0].body.value for batch in batches if batch.calls[0].body}
    assert made == {
        (0, 2): {
            "contacts": [
                {"email": "a@b.c", "custom_fields": {"w1": "pro"}},
                {"email": "c@b.c", "custom_fields": {"w1": "pro"}},
            ]
        },
        (1,): {"contacts": [{"email": "b@b.c", "custom_fields": {"w1": "pro"}}], "list_ids": ["l1"]},
    }
    assert all(call.cache_s for call in desk.asked)


@pytest.mark.parametrize(
    ("answer", "kind", "status"), [(Answer(429), Retry, 429), (Answer(404), Refusal, 404)]
)
def test_what_failed_look_ups_end_in(answer: Answer, kind: type, status: int) -> None:
    ended = talked("SENDGRID", CONFIG, _identify("a@b.c"), Desk({FIELDS: answer}))
    assert isinstance(ended, Refusal | Retry)
    assert (type(ended), ended.status) == (kind, status)


def test_a_mail_is_checked_without_being_sent() -> None:
    message = {
        "type": "track",
        "event": "bought",
        "properties": {"personalizations": [{"to": [{"email": "a@b.c"}]}]},
    }
    [mail] = calls("SENDGRID", CONFIG, message, Desk({}))
    assert SPEC.validation is not None
    checked = SPEC.validation(config_of("SENDGRID", CONFIG), mail)
    assert checked is not None
    assert checked.body is not None
    assert checked.body.value["mail_settings"] == {"sandbox_mode": {"enable": True}}
    assert mail.body is not None
    assert "mail_settings" not in mail.body.value
    [contact] = calls("SENDGRID", {"apiKey": "k"}, _identify("a@b.c"), Desk({}))
    assert SPEC.validation(config_of("SENDGRID", CONFIG), contact) is None
