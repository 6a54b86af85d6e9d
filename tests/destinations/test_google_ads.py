"""Google Ads: answers with partial failures, look-ups by name, jobs that are made before they are sent."""

from typing import Any

import msgspec
import pytest

from mainstem.destinations import google_adwords_remarketing_lists as lists
from mainstem.destinations.base import (
    Answer,
    Call,
    Delivered,
    Dialogue,
    Refusal,
    Rejected,
    Request,
    Response,
    Retry,
    Unit,
)
from mainstem.destinations.catalog import find_spec
from mainstem.destinations.google_ads import api, people
from mainstem.destinations.kit.dialogue import drive
from tests.destinations.events import CONTEXT, config_of, event_of

OAUTH = {"clientId": "c", "clientSecret": "secret", "refreshToken": "token"}
URL = f"{api.API}/customers/1:uploadClickConversions"


def _failure(*errors: tuple[int | None, str, str]) -> dict[str, Any]:
    return {
        "code": 3,
        "message": "Multiple errors",
        "details": [
            {
                "errors": [
                    {
                        "errorCode": {kind: name},
                        "message": "said",
                        "location": {"fieldPathElements": [{"fieldName": "conversions", "index": place}]}
                        if place is not None
                        else {},
                    }
                    for place, kind, name in errors
                ]
            }
        ],
    }


def _response(status: int, body: Any) -> Response:
    return Response(status, {}, msgspec.json.encode(body))


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, {"results": [{}]}, Delivered),
        (200, {"partialFailureError": _failure((0, "conversionUploadError", "EXPIRED_EVENT"))}, Rejected),
        (200, {"partialFailureError": _failure((0, "conversionUploadError", "TOO_RECENT_EVENT"))}, Retry),
        (200, {"partialFailureError": {"code": 3, "message": "no details"}}, Rejected),
        (400, {"error": _failure((0, "internalError", "TRANSIENT_ERROR"))}, Retry),
        (400, {"error": _failure((0, "fieldError", "REQUIRED"))}, type(None)),
        (403, {"error": {"code": 403}}, type(None)),
        (503, "not JSON", type(None)),
    ],
)
def test_answers(status: int, body: Any, kind: type) -> None:
    assert type(api.classify(Request("POST", URL), _response(status, body))) is kind


def test_each_conversion_has_its_own_result() -> None:
    units = [Unit(index, (Call(url=URL),), event_of({"type": "track"})) for index in range(3)]
    failure = _failure((1, "conversionUploadError", "EXPIRED_EVENT"), (2, "quotaError", "RESOURCE_EXHAUSTED"))
    for body, kinds in (
        ({"results": [{}, {}, {}]}, [Delivered] * 3),
        ({"partialFailureError": failure}, [Delivered, Rejected, Retry]),
        ({"partialFailureError": _failure((None, "authorizationError", "X"))}, [Rejected] * 3),
        ({"partialFailureError": _failure((None, "internalError", "TRANSIENT_ERROR"))}, [Retry] * 3),
        ({"partialFailureError": {"code": 3, "message": "words"}}, [Rejected] * 3),
    ):
        results = api.classify_each(Call(url=URL), Request("POST", URL), _response(200, body), units)
        assert results is not None
        assert [type(result) for result in results] == kinds
    assert api.classify_each(Call(url=URL), Request("POST", URL), _response(500, {}), units) is None


@pytest.mark.parametrize(
    ("body", "acceptance"),
    [
        ({"requestId": "r"}, "accepted"),
        ({"requestId": "r", "fieldWarnings": [{"description": "unused"}]}, "accepted with warning"),
    ],
)
def test_the_data_manager_api_answers_with_a_request_id(body: Any, acceptance: str) -> None:
    request = Request("POST", "https://datamanager.googleapis.com/v1/audienceMembers:ingest")
    result = lists.classify(request, _response(200, body))
    assert isinstance(result, Delivered)
    assert result.acceptance == acceptance
    assert lists.classify(request, _response(200, {})) is None


@pytest.mark.parametrize(
    ("way", "given", "normal"),
    [
        (people.email, " Alex.Doe+shop@GMAIL.com", "alexdoe@gmail.com"),
        (people.email, "A.b+c@Example.com", "a.b+c@example.com"),
        (people.email, "no address", None),
        (people.phone, "+1 (555) 010-0000", "+15550100000"),
        (people.phone, 15550100000, "+15550100000"),
        (people.phone, "ask me", None),
        (people.name, " MARY ", "mary"),
    ],
)
def test_identifiers_are_normalised(way: Any, given: Any, normal: str | None) -> None:
    assert way(given) == normal


def _talk(
    name: str, raw: dict[str, Any], message: dict[str, Any], answers: list[Answer]
) -> tuple[Any, list[Call]]:
    spec = find_spec(name)
    assert spec is not None
    assert spec.mapper is not None
    mapped = spec.mapper(config_of(name, {**raw, "oauth": OAUTH, "developerToken": "dev-token"}))(
        event_of(message), CONTEXT
    )
    assert isinstance(mapped, tuple)
    assert isinstance(mapped[0], Dialogue)
    asked: list[Call] = []

    def ask(call: Call) -> Answer:
        asked.append(call)
        return answers[len(asked) - 1]

    return drive(mapped[0].start(), ask), asked


ENHANCED = {"customerId": "123-456", "listOfConversions": [{"conversions": "Won 'it'"}]}
WON = {
    "type": "track",
    "event": "Won 'it'",
    "context": {"traits": {"email": "a@example.com"}},
    "properties": {"orderId": 7},
}


def test_an_enhancement_names_the_action_that_was_looked_up() -> None:
    found = Answer(200, [{"results": [{"conversionAction": {"id": 9}}]}])
    calls, asked = _talk("GOOGLE_ADWORDS_ENHANCED_CONVERSIONS", ENHANCED, WON, [found])
    assert asked[0].body is not None
    assert asked[0].body.value["query"].endswith("name = 'Won \\'it\\''")
    assert asked[0].cache_s > 0
    assert calls[0].url == f"{api.API}/customers/123456:uploadConversionAdjustments"
    assert calls[0].headers["developer-token"] == "dev-token"
    assert (
        calls[0].body.value["conversionAdjustments"][0]["conversionAction"]
        == "customers/123456/conversionActions/9"
    )


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(200, [{"results": []}]), Refusal),
        (Answer(400, [{"error": {"message": "no"}}]), Refusal),
        (Answer(403, [{"error": {"message": "no"}}]), Retry),
        (Answer(401, [{"error": {"message": "expired"}}]), Retry),
        (Answer(429), Retry),
        (Answer(0, error="timeout"), Retry),
    ],
)
def test_a_look_up_that_fails(answer: Answer, kind: type) -> None:
    ended, _ = _talk("GOOGLE_ADWORDS_ENHANCED_CONVERSIONS", ENHANCED, WON, [answer])
    assert type(ended) is kind


def test_a_store_conversion_is_a_job() -> None:
    raw = {
        "customerId": "123456",
        "eventsToOfflineConversionsTypeMapping": [{"from": "Sold", "to": "store"}],
        "eventsToConversionsNamesMapping": [{"from": "Sold", "to": "Store sale"}],
    }
    message = {
        "type": "track",
        "event": "sold",
        "timestamp": "2026-11-02T10:00:00.000Z",
        "properties": {"total": 10.1, "currency": "EUR", "email": "a@example.com"},
    }
    action = {"name": "Store sale", "resourceName": "customers/123456/conversionActions/9"}
    answers = [
        Answer(200, [{"results": [{"conversionAction": action}]}]),
        Answer(200, {"resourceName": "customers/123456/offlineUserDataJobs/5"}),
        Answer(200, {}),
    ]
    calls, asked = _talk("GOOGLE_ADWORDS_OFFLINE_CONVERSIONS", raw, message, answers)
    assert [call.url for call in calls] == [f"{api.API}/customers/123456/offlineUserDataJobs/5:run"]
    assert asked[2].body is not None
    attribute = asked[2].body.value["operations"][0]["create"]["transaction_attribute"]
    assert attribute["transaction_amount_micros"] == "10100000"
    assert attribute["transaction_date_time"] == "2026-11-02 10:00:00+00:00"


def _records(*people: dict[str, Any]) -> tuple[Any, list[Unit]]:
    config = config_of(
        "GOOGLE_ADWORDS_REMARKETING_LISTS",
        {"customerId": "1", "audienceId": "2", "developerToken": "dev-token", "oauth": OAUTH},
    )
    mapper = lists.make_mapper(config)
    units = []
    for index, person in enumerate(people):
        event = event_of({"type": "record", "action": "insert", "fields": person})
        calls = mapper(event, CONTEXT)
        assert isinstance(calls, tuple)
        units.append(Unit(index, tuple(call for call in calls if isinstance(call, Call)), event))
    return lists.make_batcher(config)(units), units


def test_people_go_by_one_job_and_who_is_not_taken_is_refused() -> None:
    talk, _ = _records({"email": "a@example.com"}, {"email": "b@example.com"})
    failed = {"partialFailureError": _failure((1, "offlineUserDataJobError", "INVALID_SHA256_FORMAT"))}
    answers = iter([Answer(200, {"resourceName": "customers/1/offlineUserDataJobs/5"}), Answer(200, failed)])
    asked: list[Call] = []

    def ask(call: Call) -> Answer:
        asked.append(call)
        return next(answers)

    batches = drive(talk, ask)
    assert isinstance(batches, list)
    assert asked[0].body is not None
    assert (
        asked[0].body.value["job"]["customerMatchUserListMetadata"]["userList"] == "customers/1/userLists/2"
    )
    assert asked[1].body is not None
    assert len(asked[1].body.value["operations"]) == 2
    assert [(batch.units, batch.refusal is not None) for batch in batches] == [((1,), True), ((0,), False)]
    assert batches[1].calls[0].url.endswith("/offlineUserDataJobs/5:run")


def test_only_neighbours_share_a_job() -> None:
    config = config_of(
        "GOOGLE_ADWORDS_REMARKETING_LISTS",
        {"customerId": "1", "audienceId": "2", "developerToken": "dev-token", "oauth": OAUTH},
    )
    units = []
    for index, action in enumerate(("insert", "insert", "delete", "insert")):
        event = event_of({"type": "record", "action": action, "fields": {"email": "a@example.com"}})
        calls = lists.make_mapper(config)(event, CONTEXT)
        assert isinstance(calls, tuple)
        units.append(Unit(index, tuple(call for call in calls if isinstance(call, Call)), event))
    talk: Any = lists.make_batcher(config)(units)
    batches = drive(
        talk,
        lambda _: Answer(200, {"resourceName": "customers/1/offlineUserDataJobs/5"}),
    )
    assert isinstance(batches, list)
    assert [batch.units for batch in batches] == [(0, 1), (2,), (3,)]


@pytest.mark.parametrize(("status", "kind"), [(400, list), (503, Retry)])
def test_a_job_that_can_not_be_made(status: int, kind: type) -> None:
    talk, _ = _records({"email": "a@example.com"})
    batches = drive(talk, lambda _: Answer(status, {"error": _failure((0, "fieldError", "REQUIRED"))}))
    assert type(batches) is kind
    if isinstance(batches, list):
        assert batches[0].refusal is not None
