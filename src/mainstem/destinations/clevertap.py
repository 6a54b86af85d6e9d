"""CleverTap: profiles, device tokens and events.

Follows https://developer.clevertap.com/docs/upload-user-profiles-api, .../docs/upload-events-api and
.../docs/upload-device-tokens-api (API 1) and RudderStack's mapping
(https://www.rudderstack.com/docs/destinations/streaming-destinations/clevertap/; all read 2026-11). Auth: account id
and passcode, in headers. Limits: 1,000 records a request, 15 requests at once; 512 bytes a property's value. CleverTap
names each record that it does not take.

identify: a profile; with `enableObjectIdMapping` and a device token in the context the token too. track: an event of
its name; `Order Completed` is `Charged`. page and screen: `Web Page Viewed: NAME`, `Screen Viewed: NAME`. Without
`enableObjectIdMapping` people are known by `identity` (the userId, else the anonymousId); with it anonymous ones by
`objectId`. What CleverTap can't take (objects and lists) is sent as JSON text.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from mainstem.destinations.base import (
    Batch,
    Batcher,
    Call,
    Delivered,
    Delivery,
    DestinationSpec,
    MapContext,
    Mapper,
    MappingTable,
    Payloads,
    Rejected,
    Request,
    Response,
    Retry,
    Unit,
)
from mainstem.destinations.kit.batching import with_body
from mainstem.destinations.kit.body import json_bytes
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import seconds_of
from mainstem.destinations.kit.values import (
    first,
    integration_options,
    mapping,
    omit,
    present,
    sequence,
    text,
    traits_of,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_MOST: Final = 1000
_APPLE: Final = frozenset({"ios", "ipados", "watchos", "tvos"})
_TOKEN_TYPES: Final = frozenset(
    {"apns", "bps", "chrome", "fcm", "firefox", "gcm", "hps", "mpns", "safari", "wns", "xps"}
)
_THEIR_TROUBLE: Final = frozenset({500, 503, 555})
"""Codes of a record that are about CleverTap's servers."""
_CATEGORIES: Final = "category-unsubscribe"


def _gender(value: Json) -> str | None:
    said = text(value).strip().lower()
    return {"m": "M", "male": "M", "f": "F", "female": "F"}.get(said)


_PROFILE: Final = Table(
    Row("Name", "name"),
    Row("Email", "email"),
    Row("Phone", "phone"),
    Row("Gender", "gender", as_=_gender, text="M or F"),
    Row("Photo", "avatar"),
    Row("DOB", "birthday", "dob"),
    Row("Employed", "employed"),
    Row("Education", "education"),
    Row("Married", "married"),
    Row(("Customer Type",), "customerType"),
)
_FIRST_NAMES: Final = ("firstName", "firstname", "first_name")
_LAST_NAMES: Final = ("lastName", "lastname", "last_name")
_NOT_CUSTOM: Final = frozenset(
    {source for _, sources, _ in _PROFILE.rows for source in sources}
    | {*_FIRST_NAMES, *_LAST_NAMES, "userId", "anonymousId", "id", "ts", "overrideFields"}
)


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    account_id: str
    """The account's (project's) id."""
    passcode: Secret
    """The account's passcode."""
    region: str = ""
    """The account's region: in1, sg1, us1, aps3, mec1, eu1; empty = eu1."""
    track_anonymous: bool = False
    """Send events of people without a userId too."""
    enable_object_id_mapping: bool = False
    """Know anonymous people by CleverTap's objectId, so that they become one with the user they turn out to be."""

    @property
    def url(self) -> str:
        """Where records are taken."""
        region = self.region.strip()
        host = "api.clevertap.com" if region in ("", "none") else f"{region}.api.clevertap.com"
        return f"https://{host}/1/upload"


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    headers = {
        "X-CleverTap-Account-Id": config.account_id,
        "X-CleverTap-Passcode": config.passcode.reveal(),
        "Content-Type": "application/json",
    }

    secrets = (config.passcode.reveal(),)

    def call(record: dict[str, Json]) -> Call:
        return json_call(config.url, {"d": [record]}, headers=headers, secrets=secrets)

    def to_calls(event: Event, context: MapContext) -> Payloads:
        if not event.user_id and not (event.anonymous_id and config.track_anonymous):
            if event.anonymous_id:
                refuse("`userId` is missing, and `trackAnonymous` is off")
            refuse("`userId` and `anonymousId` are missing; CleverTap needs one of them")
        if event.type != "identify":
            return (call({**_event(event), "type": "event", **_event_ids(event, config)}),)
        calls = [call(_profile(event, config))]
        token = _token(event, config)
        if token is not None:
            calls.append(call(token))
        return tuple(calls)

    return settled(to_calls)


# ---------------------------------------------------------------- people


def _profile(event: Event, config: Config) -> dict[str, Json]:
    traits = traits_of(event.message)
    data = _PROFILE.build(traits)
    names = [
        text(name) for name in (first(traits, *_FIRST_NAMES), first(traits, *_LAST_NAMES)) if present(name)
    ]
    if "Name" not in data and names:
        data["Name"] = " ".join(names)
    data |= {
        name: value if name == _CATEGORIES else _flat(value)
        for name, value in omit(traits, _NOT_CUSTOM).items()
        if value is not None
    }
    data |= mapping(traits.get("overrideFields"))
    record: dict[str, Json] = {"type": "profile", "profileData": data}
    at = seconds_of(traits.get("ts"))
    if at is not None:
        record["ts"] = at
    if config.enable_object_id_mapping and event.anonymous_id:
        record["objectId"] = event.anonymous_id
        if event.user_id:
            data["identity"] = event.user_id
    else:
        record["identity"] = event.user_id or event.anonymous_id
    return record


def _token(event: Event, config: Config) -> dict[str, Json] | None:
    """Return the record of a device's push token; CleverTap files it under the objectId."""
    device = mapping(mapping(event.message.get("context")).get("device"))
    if not (config.enable_object_id_mapping and event.anonymous_id and present(device.get("token"))):
        return None
    asked = integration_options(event.message, "CleverTap", "clevertap", "CLEVERTAP").get("deviceTokenType")
    system = first(event.message, "context.os.name", "context.device.type")
    system = text(system).strip().lower() if system else ""
    kind = asked if isinstance(asked, str) and asked in _TOKEN_TYPES else ""
    kind = kind or ("fcm" if system == "android" else "apns" if system in _APPLE else "")
    if not kind:
        return None
    return {
        "type": "token",
        "tokenData": {"id": device["token"], "type": kind},
        "objectId": event.anonymous_id,
    }


# ---------------------------------------------------------------- events


def _event(event: Event) -> dict[str, Json]:
    properties = mapping(event.message.get("properties"))
    if event.type == "track":
        name = event.name or refuse("`event` is missing; CleverTap's events have names")
        if name.strip().lower() == "order completed":
            data = _charged(properties)
            name = "Charged"
        else:
            data = _values(omit(properties, ("ts",)))
    else:
        shown = first(event.message, "name", "properties.name")
        kind = "Web Page Viewed" if event.type == "page" else "Screen Viewed"
        name, data = f"{kind}: {text(shown)}" if shown else kind, _values(omit(properties, ("ts",)))
    record: dict[str, Json] = {"evtName": name, "evtData": data}
    at = seconds_of(properties.get("ts"))
    if at is not None:
        record["ts"] = at
    return record


def _charged(properties: dict[str, Json]) -> dict[str, Json]:
    """Return what CleverTap wants of a purchase: https://developer.clevertap.com/docs/concepts-events#charged-event."""
    products = properties.get("products")
    if products is not None and not (
        isinstance(products, list) and all(isinstance(product, dict) for product in products)
    ):
        refuse("`properties.products` is no list of objects")
    data: dict[str, Json] = {}
    for target, source in (("Charged ID", "checkout_id"), ("Amount", "revenue"), ("Items", "products")):
        if present(properties.get(source)):
            data[target] = properties[source]
    return {**data, **_values(omit(properties, ("checkout_id", "revenue", "products", "ts")))}


def _event_ids(event: Event, config: Config) -> dict[str, str]:
    if config.enable_object_id_mapping and event.anonymous_id:
        return {"objectId": event.anonymous_id}
    return {"identity": event.user_id or event.anonymous_id}


def _values(members: Mapping[str, Json]) -> dict[str, Json]:
    return {name: _flat(value) for name, value in members.items() if value is not None}


def _flat(value: Json) -> Json:
    return json_bytes(value).decode() if isinstance(value, dict | list) else value


# ---------------------------------------------------------------- batches and answers


def make_batcher(config: Config) -> Batcher:
    """Return the batching for these settings."""

    def batch(units: Sequence[Unit]) -> Sequence[Batch]:
        batches: list[Batch] = []
        records: list[Json] = []
        places: list[int] = []
        for unit in units:
            own = [record for call in unit.calls for record in _records(call)]
            if places and len(records) + len(own) > _MOST:
                batches.append(_batch(units[0].calls[0], records, places))
                records, places = [], []
            records = records + own
            places.append(unit.index)
        return [*batches, _batch(units[0].calls[0], records, places)] if places else batches

    return batch


def _batch(like: Call, records: list[Json], places: Sequence[int]) -> Batch:
    call = msgspec.structs.replace(with_body(like, {"d": records}), extra={"batched": True})
    return Batch((call,), tuple(places), batched=False)


def _records(call: Call) -> list[Json]:
    return sequence(call.body.value["d"]) if call.body is not None else []


def classify_each(
    call: Call, request: Request, response: Response, units: Sequence[Unit]
) -> Sequence[Delivery] | None:
    """CleverTap counts the records that it took and names those that it did not, with the reason.

    `{"status": "partial", "processed": 1, "unprocessed": [{"status": "fail", "code": 513, "error": "…",
    "record": {…}}]}` (https://developer.clevertap.com/docs/api-errors)
    """
    answer = mapping(answer_of(response).body)
    if not 200 <= response.status < 300 or answer.get("status") not in ("success", "partial", "fail"):
        return None
    refused = [mapping(entry) for entry in sequence(answer.get("unprocessed"))]
    if answer["status"] == "fail" and not refused:
        reason = f"CleverTap: {answer.get('code', '')} {answer.get('error', '')}".strip()
        return [Rejected(reason[:300], str(response.status)) for _ in units]
    results: list[Delivery] = [Delivered("200", acceptance="accepted") for _ in units]
    whose = {
        _key(record): place
        for place, unit in enumerate(units)
        for one in unit.calls
        for record in _records(one)
    }
    for entry in refused:
        reason = f"CleverTap {entry.get('code', '')}: {entry.get('error', '')}"[:300]
        place = whose.get(_key(entry.get("record")))
        if place is not None:
            again = entry.get("code") in _THEIR_TROUBLE
            results[place] = Retry(reason) if again else Rejected(reason, "200 unprocessed")
        else:
            # It belongs to one of them, and nobody can tell to whom.
            results = [
                Delivered("200", warning=f"a record of this request was not taken: {reason}")
                if isinstance(result, Delivered)
                else result
                for result in results
            ]
    return results


def _key(record: Json) -> bytes:
    return msgspec.json.encode(record, order="sorted")


SPEC = DestinationSpec(
    name="CLEVERTAP",
    title="CleverTap",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track", "page", "screen"}),
    doc_url="https://developer.clevertap.com/docs/upload-events-api",
    mapper=make_mapper,
    batcher=make_batcher,
    classify_each=classify_each,
    default_concurrency=15,
    default_max_batch=_MOST,
    proof="each event",
    tables=(MappingTable(title="Profile, of the traits", rows=_PROFILE.rows),),
    limits="1,000 records a request, 15 requests at once",
)
