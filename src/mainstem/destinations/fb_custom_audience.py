"""Facebook Custom Audience: people added to and removed from a Meta custom audience.

Follows https://developers.facebook.com/docs/marketing-api/audiences/guides/custom-audiences (Graph API v25.0, read
2026-11). Auth: an access token of the business, with a proof of the app's secret if there is one. Limits: 10,000 people
a request.

An `audiencelist` event carries people in `properties.listData.remove` and `.add`; who is in both is removed, then
added. A `record` (of a warehouse sync) adds or removes one person: `insert` and `update` add, `delete` removes. Fields
are written as Meta wants them and hashed (SHA-256), unless the settings say otherwise.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

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
    Payloads,
    Request,
    Response,
    Schema,
    Unit,
)
from mainstem.destinations.kit.batching import together, with_body
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import answer_of
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.values import (
    defined,
    get,
    is_email,
    mapping,
    number,
    parse_int,
    sequence,
    sha256,
    text,
    trimmed_lower,
    truthy,
)
from mainstem.destinations.meta_graph import GRAPH, digits, initial, read_answer
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_MOST_PEOPLE: Final = 10_000
_VALUE: Final = "LOOKALIKE_VALUE"
_SYNCED: Final = "FB_CUSTOM_AUDIENCE-"


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"accessToken"})

    access_token: Secret = Secret("")
    """An access token with the permission ads_management."""
    app_secret: Secret = Secret("")
    """The app's secret, if the app demands a proof of it."""
    audience_id: str = ""
    """The audience's id; a warehouse sync says its own."""
    user_schema: list[str] | str = []
    """Which fields people have, in Meta's names: EMAIL, PHONE, GEN, MADID, EXTERN_ID, DOBY, DOBM, DOBD, LN, FN, FI, CT,
    ST, ZIP, COUNTRY."""
    is_hash_required: bool = True
    """Hash the fields (SHA-256); switch it off if events hold hashes already."""
    disable_format: bool = False
    """Take the fields as they are written."""
    skip_verify: bool = False
    """Not read: an empty field is sent as an empty text, as Meta wants it."""
    is_raw: bool = False
    """Tell Meta that the people have several fields (`is_raw`)."""
    type: str = "NA"
    """The kind of the audience's data (`data_source.type`); `NA` leaves it out."""
    sub_type: str = "NA"
    """More precisely (`data_source.sub_type`); `NA` leaves it out."""
    max_user_count: int | str = _MOST_PEOPLE
    """How many people a request may have, 10,000 at most."""
    is_value_based_audience: bool = False
    """The audience is value-based: people need a LOOKALIKE_VALUE."""


class _Options(msgspec.Struct, frozen=True):
    """What is said about an audience: by the destination, or by the connection of a sync."""

    audience_id: str
    hashing: bool
    formatting: bool
    payload: dict[str, Json]
    value_based: bool = False


def _options(audience_id: str, said: Mapping[str, Json], default: Config) -> _Options:
    payload: dict[str, Json] = {}
    if _flag(said, "isRaw", default=default.is_raw):
        payload["is_raw"] = True
    source = {}
    for field, name in (("type", "type"), ("subType", "sub_type")):
        value = said.get(field)
        if isinstance(value, str) and value and value != "NA":
            source[name] = value
    if source:
        payload["data_source"] = source
    return _Options(
        audience_id,
        hashing=_flag(said, "isHashRequired", default=default.is_hash_required),
        formatting=not _flag(said, "disableFormat", default=default.disable_format),
        payload=payload,
        value_based=_flag(said, "isValueBasedAudience", default=default.is_value_based_audience),
    )


def _flag(said: Mapping[str, Json], name: str, *, default: bool) -> bool:
    value = said.get(name)
    return default if value is None else truthy(value) and value != "false"


# ---------------------------------------------------------------- people

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_NOT_LETTERS: Final = re.compile(r"[^a-z]+")
_PUNCTUATION: Final = re.compile(r"[!-/:-?\[-`{-~]+")
_SPACES: Final = re.compile(r"\s+")
_PHONE: Final = re.compile(r"[1-9]\d+")
_COUNTRY: Final = re.compile(r"[a-z]{2}")
_NEVER_HASHED: Final = frozenset(("MADID", "EXTERN_ID"))


def _name(value: Json) -> str:
    return _PUNCTUATION.sub("", trimmed_lower(value))


def _place(value: Json) -> str:
    return _NOT_LETTERS.sub("", text(value).lower())


def _two_digits(value: Json) -> str:
    return text(value).strip().zfill(2)


# https://developers.facebook.com/docs/marketing-api/audiences/guides/custom-audiences#hash
_FORMATS: Final[Mapping[str, Callable[[Json], str]]] = {
    "EMAIL": trimmed_lower,
    "PHONE": digits,
    "GEN": initial,
    "DOBY": lambda value: text(value).strip(),
    "DOBM": _two_digits,
    "DOBD": _two_digits,
    "LN": _name,
    "FN": _name,
    "FI": trimmed_lower,
    "CT": _place,
    "ST": _place,
    "ZIP": lambda value: _SPACES.sub("", text(value).lower()),
    "COUNTRY": trimmed_lower,
    "MADID": trimmed_lower,
}
_VALID: Final[Mapping[str, Callable[[str], object]]] = {
    "EMAIL": is_email,
    "PHONE": _PHONE.fullmatch,
    "COUNTRY": _COUNTRY.fullmatch,
}


def _field(name: str, value: Json, options: _Options) -> Json:
    """Return a field as Meta gets it; an empty text for none, or one that can't be right."""
    if name == _VALUE:
        return _worth(value)
    if not defined(value) or isinstance(value, dict | list):
        return ""
    written = text(value)
    if name not in _NEVER_HASHED and _HASH.fullmatch(written):
        return written
    if options.formatting and name in _FORMATS:
        written = _FORMATS[name](value)
    valid = _VALID.get(name)
    if not written or (options.hashing and valid is not None and not valid(written)):
        return ""
    return sha256(written) if options.hashing and name not in _NEVER_HASHED else written


def _worth(value: Json) -> float:
    """Return what a person is worth; 0 for nothing, less than nothing, or no number."""
    worth = number(value)
    return worth if worth is not None and worth > 0 else 0


def _row(fields: Mapping[str, Json], schema: Sequence[str], options: _Options) -> list[Json]:
    row = [_field(name, fields.get(name), options) for name in schema]
    if all(value == "" for value in row):
        refuse(f"all of {', '.join(schema)} are empty or can't be right; a person needs one of them")
    return row


# ---------------------------------------------------------------- the mapping


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    token = config.access_token.reveal()
    secret = config.app_secret.reveal()
    params: dict[str, Json] = {"access_token": token}
    secrets: tuple[str, ...] = (token,)
    if secret:
        # https://developers.facebook.com/docs/graph-api/guides/secure-requests: without a time, which would let the
        # proof expire while events wait.
        proof = hmac.new(secret.encode(), token.encode(), hashlib.sha256).hexdigest()
        params["appsecret_proof"] = proof
        secrets = (token, proof)
    schema = [config.user_schema] if isinstance(config.user_schema, str) else config.user_schema
    said = {"type": config.type, "subType": config.sub_type}
    most = _most(config)

    def to_calls(event: Event, context: MapContext) -> Payloads:
        if not token:
            refuse("the setting `accessToken` is missing; Meta's API needs it")
        return of_record(event.message, context) if event.type == "record" else of_list(event.message)

    def call(method: str, options: _Options, fields: Sequence[str], rows: Sequence[Json]) -> Call:
        payload = {**options.payload, "schema": list(fields), "data": list(rows)}
        url = f"{GRAPH}/{options.audience_id}/users"
        return json_call(
            url, {"payload": payload}, method=method, params=params, label="users", secrets=secrets
        )

    def of_list(message: dict[str, Json]) -> Payloads:
        # A sync that is mapped to the destination says audience and fields itself.
        audience = _synced_audience(message) or config.audience_id
        fields = _synced_fields(message) or schema
        if not audience:
            refuse("the setting `audienceId` is missing; Meta needs to know the audience")
        if not fields:
            refuse("the setting `userSchema` is empty; name the fields that people have")
        options = _options(audience, said, config)
        people = mapping(get(message, "properties.listData"))
        calls: list[Call] = []
        for key, method in (("remove", "DELETE"), ("add", "POST")):
            rows = [_row(mapping(person), fields, options) for person in sequence(people.get(key))]
            calls += [call(method, options, fields, rows[at : at + most]) for at in range(0, len(rows), most)]
        if not calls:
            refuse("`properties.listData` has nobody in `add` nor in `remove`")
        return tuple(calls)

    def of_record(message: dict[str, Json], context: MapContext) -> Payloads:
        action = message.get("action")
        if action not in ("insert", "update", "delete"):
            refuse("`action` is none of insert, update and delete")
        connection = mapping(get(context.connection, "config.destination"))
        if connection:
            fields = mapping(message.get("identifiers"))
            names = list(fields)
            options = _options(text(connection.get("audienceId") or ""), connection, config)
        else:
            fields = mapping(message.get("fields"))
            names = _synced_fields(message) or list(fields)
            options = _options(_synced_audience(message) or config.audience_id, said, config)
        if not options.audience_id:
            refuse("the setting `audienceId` is missing; Meta needs to know the audience")
        if options.value_based and _VALUE not in names:
            refuse(f"`{_VALUE}` is missing; people of a value-based audience need it")
        method = "DELETE" if action == "delete" else "POST"
        return (call(method, options, names, [_row(fields, names, options)]),)

    return settled(to_calls)


def _synced_audience(message: dict[str, Json]) -> str:
    for entry in sequence(get(message, "context.externalId")):
        kind = mapping(entry).get("type")
        if isinstance(kind, str) and kind.startswith(_SYNCED):
            return kind.removeprefix(_SYNCED)
    return ""


def _synced_fields(message: dict[str, Json]) -> list[str]:
    listed = get(message, "context.destinationFields")
    return re.split(r"\s*,\s*", listed.strip()) if isinstance(listed, str) and listed.strip() else []


def _most(config: Config) -> int:
    return max(1, min(parse_int(config.max_user_count) or _MOST_PEOPLE, _MOST_PEOPLE))


# ---------------------------------------------------------------- batches and answers


def make_batcher(config: Config) -> Batcher:
    """Return the batching: records of the same action, audience and fields go together."""
    most = _most(config)

    def key(unit: Unit) -> tuple[str, str, tuple[str, ...], str] | None:
        if unit.event.type != "record":
            return None
        call = unit.calls[0]
        payload = _payload(call)
        rest = repr({name: value for name, value in payload.items() if name not in ("schema", "data")})
        return text(unit.event.message.get("action")), call.url, tuple(payload["schema"]), rest

    def merge(calls: Sequence[Call]) -> Call:
        rows = [row for call in calls for row in _payload(call)["data"]]
        return with_body(calls[0], {"payload": {**_payload(calls[0]), "data": rows}})

    def batch(units: Sequence[Unit]) -> list[Batch]:
        made = together(units, key=key, merge=merge, most=most)
        return [msgspec.structs.replace(one, many=True) if one.batched else one for one in made]

    return batch


def _payload(call: Call) -> dict[str, Json]:
    return mapping(mapping(call.body and call.body.value).get("payload"))


def classify(request: Request, response: Response) -> Delivery | None:
    """Meta says how many people it received, and how many of them it could not read; its errors have codes."""
    body = mapping(answer_of(response).body)
    invalid = body.get("num_invalid_entries")
    if response.status == 200 and "error" not in body and isinstance(invalid, int) and invalid > 0:
        warning = f"{invalid} of {text(body.get('num_received'))} people have fields that Meta could not read"
        return Delivered("200", acceptance="accepted with warning", warning=warning)
    return read_answer(request, response, lambda taken: isinstance(taken.get("num_received"), int))


SPEC = DestinationSpec(
    name="FB_CUSTOM_AUDIENCE",
    title="Facebook Custom Audience",
    kind="http",
    config=Config,
    message_types=frozenset({"audiencelist", "record"}),
    doc_url="https://developers.facebook.com/docs/marketing-api/audiences/guides/custom-audiences",
    mapper=make_mapper,
    classify=classify,
    batcher=make_batcher,
    default_max_batch=_MOST_PEOPLE,
    proof="body",
    schemas=(
        Schema(
            label="users",
            doc_url="https://developers.facebook.com/docs/marketing-api/reference/custom-audience/users/",
            schema={
                "type": "object",
                "required": ["payload"],
                "properties": {
                    "payload": {
                        "type": "object",
                        "required": ["schema", "data"],
                        "properties": {
                            "schema": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                            "data": {
                                "type": "array",
                                "minItems": 1,
                                "maxItems": _MOST_PEOPLE,
                                "items": {"type": "array", "items": {"type": ["string", "number"]}},
                            },
                            "is_raw": {"type": "boolean"},
                            "data_source": {"type": "object"},
                        },
                    }
                },
            },
        ),
    ),
    limits="10,000 people a request",
)
