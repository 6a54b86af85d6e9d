"""Google Ads Enhanced Conversions: what is known of a person is added to a conversion that Google has seen already.

Follows https://developers.google.com/google-ads/api/docs/conversions/enhanced-conversions/web and
https://developers.google.com/google-ads/api/rest/reference/rest/v23/customers/uploadConversionAdjustments (v23, read
2026-11). Auth: OAuth, and a developer token. Limits: 2,000 adjustments a request; within 24 hours of the conversion.

A track whose name is in the list of conversions becomes an adjustment of that conversion action, found by its order
id. Conversion actions are named by people and numbered by Google, so the name is looked up once a day. E-mail, phone,
names and street are normalised and hashed here, unless the settings say they are already.
"""

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import (
    Batcher,
    Call,
    DestinationSpec,
    Dialogue,
    Looking,
    MapContext,
    Mapped,
    Mapper,
    MappingTable,
    OAuth,
    Schema,
    Unit,
)
from mainstem.destinations.google_ads import api, people
from mainstem.destinations.kit.batching import together, with_body
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.refuse import refuse, settled, skip
from mainstem.destinations.kit.spec_fields import EMAIL, PHONE, trait
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.values import first, mapping, number, text, without_none
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_UPLOAD: Final = "/uploadConversionAdjustments"
_MOST: Final = 2000
_TYPES: Final = frozenset(("ENHANCEMENT", "RESTATEMENT", "RETRACTION"))

_ADJUSTMENT: Final = Table(
    Row("gclidDateTimePair.gclid", "properties.gclid", as_=text),
    Row("gclidDateTimePair.conversionDateTime", "properties.conversionDateTime", as_=text),
    Row("restatementValue.adjustedValue", "properties.adjustedValue", as_=number),
    Row("restatementValue.currencyCode", "properties.currencyCode", "properties.currency"),
    Row("orderId", "properties.orderId", "properties.order_id", required=True, as_=text),
    Row("adjustmentDateTime", "properties.adjustmentDateTime", as_=text),
    Row("userAgent", "context.userAgent", text="enhancements only"),
)
_ADDRESS: Final = (
    ("hashedFirstName", trait("firstName", "firstname", "first_name")),
    ("hashedLastName", trait("lastName", "lastname", "last_name")),
    ("state", trait("state", "address.state")),
    ("city", trait("city", "address.city")),
    ("countryCode", trait("countryCode", "country", "address.countryCode", "address.country")),
    ("postalCode", trait("postalCode", "zip", "address.postalCode", "address.zip")),
    ("hashedStreetAddress", trait("streetAddress", "street", "address.street")),
)


class Conversion(msgspec.Struct, frozen=True):
    """A row of the list of conversions."""

    conversions: str = ""
    """The name of the event, which is the name of the conversion action too."""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"customerId", "developerToken"})

    customer_id: str | int = ""
    """The id of the Google Ads account, with or without dashes."""
    sub_account: bool = False
    """Whether the account is reached through a manager account."""
    login_customer_id: str | int | None = None
    """The id of the manager account; required with `subAccount`."""
    list_of_conversions: tuple[Conversion, ...] = ()
    """Events to send, each named like its conversion action: rows `{conversions: name}`."""
    require_hash: bool = True
    """Hash e-mail, phone, names and street here. Off: the events hold SHA-256 hashes already."""
    adjustment_type: str = "ENHANCEMENT"
    """`ENHANCEMENT` adds what is known of the person; `RESTATEMENT` changes the value; `RETRACTION` takes the
    conversion back."""
    developer_token: Secret = Secret("")
    """Your developer token of the Google Ads API."""
    rudder_account_id: str | None = None
    """RudderStack's reference to the connected account; kept, not used."""
    auth_status: str | None = None
    """RudderStack's note on the connected account; kept, not used."""


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    customer_id = api.plain_id(config.customer_id)
    login_id = api.plain_id(config.login_customer_id)
    names = frozenset(
        row.conversions.strip() for row in config.list_of_conversions if row.conversions.strip()
    )
    kind = config.adjustment_type if config.adjustment_type in _TYPES else "ENHANCEMENT"

    def to_calls(event: Event, context: MapContext) -> Mapped:
        if config.sub_account and not login_id:
            refuse("the setting `loginCustomerId` is empty; with `subAccount` it names the manager account")
        message = event.message
        if not event.name:
            refuse("`event` is missing; it names the conversion action")
        if event.name.strip() not in names:
            skip("event not in the list of conversions")
        adjustment = _adjustment(message, kind, hashing=config.require_hash)
        token = api.access_token(context)
        headers = api.headers_of(token, config.developer_token, login_id if config.sub_account else "")
        body = {"conversionAdjustments": [adjustment], "partialFailure": True}
        if config.developer_token:
            url = f"{api.API}/customers/{customer_id}:uploadConversionAdjustments"
            call = json_call(url, body, headers=headers, label=_UPLOAD)
            return (Dialogue(lambda: _with_action(call, customer_id, event.name.strip())),)
        params: dict[str, Json] = {
            "accessToken": token,
            "event": event.name.strip(),
            "customerId": customer_id,
            "loginCustomerId": login_id if config.sub_account else None,
            "subAccount": config.sub_account,
        }
        return (json_call("", body, headers=headers, params=without_none(params)),)

    return settled(to_calls)


def _adjustment(message: dict[str, Json], kind: str, *, hashing: bool) -> dict[str, Json]:
    adjustment = _ADJUSTMENT.build(message)
    if "adjustedValue" not in adjustment.get("restatementValue", {}):
        adjustment.pop("restatementValue", None)  # a currency alone restates nothing, and Google refuses it
    if kind == "ENHANCEMENT":
        identifiers = _identifiers(message, hashing=hashing)
        if not identifiers:
            refuse(
                "`context.traits` has no e-mail, phone, name or address that Google could know the person by; "
                "an enhancement needs one"
            )
        adjustment["userIdentifiers"] = identifiers
    else:
        adjustment.pop("userAgent", None)
        if kind == "RETRACTION":
            adjustment.pop("restatementValue", None)
    adjustment["adjustmentType"] = kind
    return adjustment


def _identifiers(message: dict[str, Json], *, hashing: bool) -> list[Json]:
    def hashed(kind: str, field: str, sources: Sequence[str]) -> str | None:
        return people.hashed(kind, first(message, *sources), hashing=hashing, field=field)

    identifiers: list[Json] = []
    if email := hashed("email", "email", EMAIL):
        identifiers.append({"hashedEmail": email})
    if phone := hashed("phone", "phone", PHONE):
        identifiers.append({"hashedPhoneNumber": phone})
    address: dict[str, Json] = {}
    for name, sources in _ADDRESS:
        value = hashed("name", name, sources) if name.startswith("hashed") else first(message, *sources)
        if isinstance(value, str | int | float):
            address[name] = value
    if address:
        identifiers.append({"addressInfo": address})
    return identifiers


def _with_action(call: Call, customer_id: str, name: str) -> Looking:
    """Find the conversion action of this name, and say that it is the one adjusted."""
    rows = yield from api.search(
        customer_id,
        f"SELECT conversion_action.id FROM conversion_action WHERE conversion_action.name = {api.quoted(name)}",  # noqa: S608 - GAQL, quoted
        call.headers,
        "search of the conversion action",
    )
    action = next((mapping(row.get("conversionAction")) for row in rows), {})
    resource = action.get("resourceName")
    if not resource and action.get("id"):
        resource = f"customers/{customer_id}/conversionActions/{text(action['id'])}"
    if not resource:
        refuse(f"Google Ads account {customer_id} has no conversion action named like this event")
    assert call.body is not None  # noqa: S101 - made above
    value = call.body.value
    adjustments = [{**one, "conversionAction": resource} for one in value["conversionAdjustments"]]
    return (with_body(call, {**value, "conversionAdjustments": adjustments}),)


def make_batcher(config: Config) -> Batcher:
    """Return the batching: adjustments in the same account and of the same action go together."""
    del config
    return lambda units: together(units, key=_key, merge=_merged, most=_MOST)


def _key(unit: Unit) -> Hashable:
    call = unit.calls[0]
    return call.url, repr(call.headers), repr(call.params)


def _merged(calls: Sequence[Call]) -> Call:
    return msgspec.structs.replace(api.with_list(calls, "conversionAdjustments"), label=_UPLOAD)


_DOC: Final = "https://developers.google.com/google-ads/api/rest/reference/rest/v23/customers/uploadConversionAdjustments"

SPEC = DestinationSpec(
    name="GOOGLE_ADWORDS_ENHANCED_CONVERSIONS",
    title="Google Ads Enhanced Conversions",
    kind="http",
    config=Config,
    message_types=frozenset({"track"}),
    doc_url=_DOC,
    mapper=make_mapper,
    batcher=make_batcher,
    default_max_batch=_MOST,
    classify=api.classify,
    classify_each=api.classify_each,
    oauth=OAuth(token_url=api.TOKEN_URL, scopes=(api.SCOPE,)),
    proof="each event",
    validation=api.validate_only,
    schemas=(
        Schema(
            label=_UPLOAD,
            doc_url=_DOC,
            schema={
                "type": "object",
                "required": ["conversionAdjustments", "partialFailure"],
                "properties": {
                    "partialFailure": {"const": True},
                    "conversionAdjustments": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": _MOST,
                        "items": {
                            "type": "object",
                            "required": ["adjustmentType", "conversionAction"],
                            "properties": {
                                "adjustmentType": {"enum": sorted(_TYPES)},
                                "conversionAction": {
                                    "type": "string",
                                    "pattern": "^customers/[0-9]+/conversionActions/[0-9]+$",
                                },
                                "orderId": {"type": "string"},
                                "userIdentifiers": {"type": "array", "maxItems": 5},
                            },
                        },
                    },
                },
            },
        ),
    ),
    tables=(MappingTable(title="A conversion adjustment", rows=_ADJUSTMENT.rows),),
    limits="2,000 adjustments a request; enhancements within 24 hours of the conversion",
)
