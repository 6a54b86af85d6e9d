"""Google Ads Offline Conversions: sales after a click on an ad, after a call, or in a store.

Follows https://developers.google.com/google-ads/api/docs/conversions/upload-offline, .../upload-calls and
.../upload-store-sales-transactions (v23, read 2026-11). Auth: OAuth, and a developer token. Limits: 2,000 conversions
a request.

The settings say which events are conversions, of which kinds, and the name of each one's conversion action. Actions
and custom variables are named by people and numbered by Google: names are looked up, once a day. A click conversion
needs the click's id (gclid, gbraid or wbraid) or an e-mail or phone, a call conversion the caller's number and the
time of the call; a store conversion goes by a job that is made, filled and started.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import (
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
)
from mainstem.destinations.google_ads import api, people
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.refuse import refuse, settled, skip
from mainstem.destinations.kit.spec_fields import EMAIL, PHONE, TIMESTAMP
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.times import moment_of
from mainstem.destinations.kit.values import (
    first,
    get,
    integration_options,
    mapping,
    number,
    parse_int,
    present,
    rounded,
    sequence,
    sha256,
    text,
    without_empty,
    without_none,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_KINDS: Final = ("click", "call", "store")


def _google_time(value: Json) -> Json:
    """Return a time as Google writes it; one that has a zone in a text of another form is put into UTC."""
    if isinstance(value, str) and len(value) > 10 and value[10] == " ":
        return value
    moment = moment_of(value)
    return None if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S+00:00")


_google_time.__name__ = "yyyy-mm-dd hh:mm:ss+00:00"

_WHEN: Final = Row(
    "conversionDateTime",
    "properties.conversionDateTime",
    *TIMESTAMP,
    required=True,
    as_=_google_time,
)
_VALUE: Final = ("properties.conversionValue", "properties.total", "properties.value", "properties.revenue")
_CURRENCY: Final = ("properties.currencyCode", "properties.currency")

_CLICK: Final = Table(
    Row("gclid", "properties.gclid"),
    Row("gbraid", "properties.gbraid"),
    Row("wbraid", "properties.wbraid"),
    Row(
        "externalAttributionData.externalAttributionCredit",
        "properties.externalAttributionCredit",
        as_=number,
    ),
    Row("externalAttributionData.externalAttributionModel", "properties.externalAttributionModel"),
    _WHEN,
    Row("conversionValue", *_VALUE, as_=number),
    Row("currencyCode", *_CURRENCY),
    Row("orderId", "properties.orderId", "properties.order_id", as_=text),
)
_CALL: Final = Table(
    Row("callerId", "properties.callerId", required=True, as_=text),
    Row("callStartDateTime", "properties.callStartDateTime", required=True, as_=_google_time),
    _WHEN,
    Row("conversionValue", *_VALUE, as_=number),
    Row("currencyCode", *_CURRENCY),
)
_CART: Final = Table(
    Row("merchantId", "merchantId", as_=parse_int),
    Row("feedCountryCode", "feedCountryCode"),
    Row("feedLanguageCode", "feedLanguageCode"),
    Row("localTransactionCost", "localTransactionCost", as_=number),
)
_ITEM: Final = Table(
    Row("productId", "product_id", "productId", "id", as_=text),
    Row("quantity", "quantity", as_=parse_int),
    Row("unitPrice", "price", as_=number),
)
_STORE: Final = Table(
    Row("store_attribute.store_code", "properties.store_code", "properties.storeCode"),
    Row("order_id", "properties.order_id", "properties.orderId", as_=text),
    Row("currency_code", *_CURRENCY, default="USD"),
    Row(
        "transaction_amount_micros",
        *_VALUE,
        required=True,
        as_=(number, lambda value: text(rounded(value * 1_000_000)) if value is not None else None),
        text="in millionths",
    ),
    Row(
        "transaction_date_time",
        "properties.conversionDateTime",
        *TIMESTAMP,
        required=True,
        as_=_google_time,
    ),
    Row("custom_value", "properties.custom_value", "properties.customValue", as_=text),
)
_STORE_JOB: Final = Table(
    Row("loyaltyFraction", "properties.loyaltyFraction", "properties.loyalty_fraction", default="1"),
    Row(
        "transaction_upload_fraction",
        "properties.transaction_upload_fraction",
        "properties.transactionUploadFraction",
        default="1",
    ),
    Row("custom_key", "properties.custom_key", "properties.customKey", as_=text),
)


class Pair(msgspec.Struct, frozen=True):
    """A row of two names."""

    from_: str = msgspec.field(default="", name="from")
    """The event's name, or a property's."""
    to: str = ""
    """What it becomes."""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    NEEDED_TO_SEND: ClassVar = frozenset({"customerId", "developerToken"})

    customer_id: str | int = ""
    """The id of the Google Ads account, with or without dashes."""
    sub_account: bool = False
    """Whether the account is reached through a manager account."""
    login_customer_id: str | int | None = None
    """The id of the manager account; required with `subAccount`."""
    events_to_offline_conversions_type_mapping: tuple[Pair, ...] = ()
    """Which events are conversions, and of which kind: rows `{from: event, to: click | call | store}`."""
    events_to_conversions_names_mapping: tuple[Pair, ...] = ()
    """The conversion action of each event, by its name in Google Ads: rows `{from: event, to: action}`."""
    custom_variables: tuple[Pair, ...] = ()
    """Custom variables of conversions: rows `{from: property, to: name of the variable in Google Ads}`."""
    user_identifier_source: str | None = msgspec.field(name="UserIdentifierSource", default=None)
    """Whose the e-mail or phone is: `FIRST_PARTY`, `THIRD_PARTY`, `UNSPECIFIED`, `UNKNOWN` or `none`."""
    conversion_environment: str | None = None
    """Where conversions happen: `WEB`, `APP`, `UNSPECIFIED`, `UNKNOWN` or `none`."""
    default_user_identifier: str = "email"
    """What to identify people by when both are there: `email` or `phone`."""
    hash_user_identifier: bool = True
    """Hash e-mail and phone here. Off: the events hold SHA-256 hashes already."""
    validate_only: bool = False
    """Have Google check conversions without taking them."""
    user_data_consent: str | None = None
    """Consent to send user data to Google: `GRANTED`, `DENIED`, `UNSPECIFIED` or `UNKNOWN`. An event's own
    (`integrations.GOOGLE_ADWORDS_OFFLINE_CONVERSIONS.consents.adUserData`) goes before it."""
    personalization_consent: str | None = None
    """Consent to personalised ads: as above (`consents.adPersonalization`)."""
    developer_token: Secret = Secret("")
    """Your developer token of the Google Ads API."""
    rudder_account_id: str | None = None
    """RudderStack's reference to the connected account; kept, not used."""


class _Names(msgspec.Struct, frozen=True):
    """The settings' tables, by name."""

    kinds: dict[str, tuple[str, ...]]
    actions: dict[str, str]
    variables: tuple[tuple[str, str], ...]


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    customer_id = api.plain_id(config.customer_id)
    login_id = api.plain_id(config.login_customer_id)
    names = _names_of(config)
    raw_variables = [{"from": row.from_, "to": row.to} for row in config.custom_variables]

    def to_calls(event: Event, context: MapContext) -> Mapped:
        if config.sub_account and not login_id:
            refuse("the setting `loginCustomerId` is empty; with `subAccount` it names the manager account")
        if not event.name:
            refuse("`event` is missing; it names the conversion")
        key = event.name.strip().lower()
        kinds, action = names.kinds.get(key), names.actions.get(key)
        if not kinds or not action:
            skip("event not mapped")
        message = event.message
        token = api.access_token(context)
        headers = api.headers_of(token, config.developer_token, login_id if config.sub_account else "")
        conversions = [(kind, _MAKE[kind](message, config)) for kind in kinds]
        variables = _variables(message, names.variables)
        properties = mapping(message.get("properties"))

        def talk() -> Looking:
            actions = yield from _resources("conversion_action", names.actions.values(), customer_id, headers)
            resource = actions.get(action)
            if resource is None:
                refuse(f"Google Ads account {customer_id} has no conversion action `{action}`")
            ids: dict[str, str] = {}
            if names.variables:
                ids = yield from _resources(
                    "conversion_custom_variable", [name for _, name in names.variables], customer_id, headers
                )
            custom = [
                {"conversionCustomVariable": ids[name], "value": value}
                for name, value in variables
                if name in ids
            ]
            calls: list[Call] = []
            for kind, conversion in conversions:
                if kind == "store":
                    call = _store_call(conversion, resource, customer_id, message, config, headers)
                    if config.developer_token:
                        call = yield from _store_job(call, customer_id)
                else:
                    conversion = {**conversion, "conversionAction": resource}
                    if custom:
                        conversion["customVariables"] = custom
                    body: dict[str, Json] = {"conversions": [conversion], "partialFailure": True}
                    if config.validate_only:
                        body["validateOnly"] = True
                    way = f"upload{kind.capitalize()}Conversions"
                    url = f"{api.API}/customers/{customer_id}:{way}"
                    call = json_call(url, body, headers=headers, label=way)
                    if not config.developer_token:
                        call = msgspec.structs.replace(
                            call,
                            params={
                                "event": action,
                                "customerId": customer_id,
                                "customVariables": raw_variables,
                                "properties": properties,
                            },
                        )
                calls.append(call)
            return tuple(calls)

        return (Dialogue(talk),)

    return settled(to_calls)


def _names_of(config: Config) -> _Names:
    kinds: dict[str, tuple[str, ...]] = {}
    for row in config.events_to_offline_conversions_type_mapping:
        key, kind = row.from_.strip().lower(), row.to.strip().lower()
        if key and kind in _KINDS and kind not in kinds.get(key, ()):
            kinds[key] = (*kinds.get(key, ()), kind)
    actions: dict[str, str] = {}
    for row in config.events_to_conversions_names_mapping:
        if row.from_.strip() and row.to.strip():
            actions.setdefault(row.from_.strip().lower(), row.to.strip())
    variables = tuple((row.from_, row.to) for row in config.custom_variables if row.from_ and row.to)
    return _Names(kinds, actions, variables)


def _variables(message: dict[str, Json], rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [
        (name, text(value)) for field, name in rows if present(value := get(message, f"properties.{field}"))
    ]


def _resources(what: str, names: Any, customer_id: str, headers: dict[str, str]) -> Any:
    """Look up what Google calls these; by name."""
    listed = ", ".join(api.quoted(name) for name in dict.fromkeys(names))
    query = (
        f"SELECT {what}.name, {what}.resource_name, {what}.owner_customer FROM {what} "  # noqa: S608 - GAQL, quoted
        f"WHERE {what}.name IN ({listed})"
    )
    rows = yield from api.search(customer_id, query, headers, f"search of {what.replace('_', ' ')}s")
    member = "conversionAction" if what == "conversion_action" else "conversionCustomVariable"
    return {
        text(found.get("name")): text(found.get("resourceName"))
        for row in rows
        if (found := mapping(row.get(member))).get("resourceName")
    }


# ---------------------------------------------------------------- conversions


def _consent(message: dict[str, Json], config: Config) -> dict[str, str]:
    own = mapping(
        integration_options(
            message,
            "GOOGLE_ADWORDS_OFFLINE_CONVERSIONS",
            "google_adwords_offline_conversions",
            "Google Ads Offline Conversions",
        ).get("consents")
    )
    return {
        "adPersonalization": api.consent_status(
            own.get("adPersonalization") or config.personalization_consent
        ),
        "adUserData": api.consent_status(own.get("adUserData") or config.user_data_consent),
    }


def _user_identifier(message: dict[str, Json], config: Config) -> dict[str, str] | None:
    ways = [("hashedEmail", EMAIL, people.email), ("hashedPhoneNumber", PHONE, people.phone)]
    if config.default_user_identifier == "phone":
        ways.reverse()
    for field, sources, normal in ways:
        value = first(message, *sources)
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            continue
        if not config.hash_user_identifier or people.is_hash(value):
            return {field: text(value).strip()}
        if found := normal(value):
            return {field: sha256(found)}
    return None


def _setting(message: dict[str, Json], name: str, configured: str | None) -> str | None:
    """Return the event's own or the configured value of a setting that may be switched off by `none`."""
    value = get(message, f"properties.{name}") or configured
    return value if isinstance(value, str) and value.lower() != "none" else None


def _click(message: dict[str, Json], config: Config) -> dict[str, Json]:
    conversion = _CLICK.build(message)
    if "gbraid" in conversion and "wbraid" in conversion:
        refuse("`properties.gbraid` and `properties.wbraid` are both there; Google takes one of them")
    conversion["consent"] = _consent(message, config)
    if cart := _cart(mapping(message.get("properties"))):
        conversion["cartData"] = cart
    # Google takes no identifiers beside gbraid and wbraid, which stand for many people:
    # https://developers.google.com/google-ads/api/docs/conversions/upload-offline
    if "gbraid" not in conversion and "wbraid" not in conversion:
        identifier = _user_identifier(message, config)
        if identifier:
            source = _setting(message, "userIdentifierSource", config.user_identifier_source)
            conversion["userIdentifiers"] = [without_none({"userIdentifierSource": source}) | identifier]
        elif "gclid" not in conversion:
            refuse(
                "`properties.gclid` is missing, and so are gbraid, wbraid, e-mail and phone; "
                "a click conversion needs one of them"
            )
    environment = _setting(message, "conversionEnvironment", config.conversion_environment)
    if environment:
        conversion["conversionEnvironment"] = environment
    return conversion


def _cart(properties: dict[str, Json]) -> dict[str, Json]:
    cart = _CART.build(properties)
    products = [item for item in sequence(properties.get("products")) if isinstance(item, dict)]
    if not products and present(properties.get("product_id")):
        products = [properties]
    items = [item for product in products if (item := _ITEM.build(product))]
    return cart | {"items": items} if items else cart


def _call(message: dict[str, Json], config: Config) -> dict[str, Json]:
    return {**_CALL.build(message), "consent": _consent(message, config)}


def _store(message: dict[str, Json], config: Config) -> dict[str, Json]:
    identifier = _user_identifier(message, config)
    if identifier is None:
        refuse("`traits.email` and `traits.phone` are missing; a store conversion needs one of them")
    source = config.user_identifier_source
    if source is None or source.lower() == "none":
        source = "UNSPECIFIED"
    return {
        "transaction_attribute": _STORE.build(message),
        "userIdentifiers": [{**identifier, "userIdentifierSource": source}],
        "consent": _consent(message, config),
    }


_MAKE: Final = {"click": _click, "call": _call, "store": _store}


def _store_call(
    conversion: dict[str, Json],
    resource: str,
    customer_id: str,
    message: dict[str, Json],
    config: Config,
    headers: dict[str, str],
) -> Call:
    """Describe the job that a store conversion goes by: made, filled, started."""
    attribute = {**conversion["transaction_attribute"], "conversion_action": resource}
    checked = config.validate_only
    body = {
        "event": customer_id,
        "isStoreConversion": True,
        "createJobPayload": {
            "job": {
                "type": "STORE_SALES_UPLOAD_FIRST_PARTY",
                "storeSalesMetadata": without_empty(_STORE_JOB.build(message)),
            }
        },
        "addConversionPayload": {
            "enable_partial_failure": False,
            "enable_warnings": False,
            "validate_only": checked,
            "operations": [{"create": {**conversion, "transaction_attribute": attribute}}],
        },
        "executeJobPayload": {"validate_only": checked},
    }
    url = f"{api.API}/customers/{customer_id}/offlineUserDataJobs"
    return json_call(
        url, body, headers=headers, params={"customerId": customer_id}, label="offlineUserDataJobs"
    )


def _store_job(call: Call, customer_id: str) -> Any:
    assert call.body is not None  # noqa: S101 - made above
    body = call.body.value
    run, _ = yield from api.job_calls(
        customer_id, body["createJobPayload"], body["addConversionPayload"], call.headers
    )
    return run


_DOC: Final = "https://developers.google.com/google-ads/api/docs/conversions/upload-offline"


def _schema(way: str, required: list[str]) -> Schema:
    return Schema(
        label=way,
        doc_url=f"https://developers.google.com/google-ads/api/rest/reference/rest/v23/customers/{way}",
        schema={
            "type": "object",
            "required": ["conversions", "partialFailure"],
            "properties": {
                "partialFailure": {"const": True},
                "validateOnly": {"type": "boolean"},
                "conversions": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 2000,
                    "items": {
                        "type": "object",
                        "required": ["conversionAction", "conversionDateTime", *required],
                        "properties": {
                            "conversionAction": {"type": "string"},
                            "conversionDateTime": {
                                "type": "string",
                                "pattern": r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}[+-]\d{2}:\d{2}$",
                            },
                            "conversionValue": {"type": "number"},
                            "userIdentifiers": {"type": "array", "maxItems": 5},
                        },
                        "not": {"required": ["gbraid", "wbraid"]},
                    },
                },
            },
        },
    )


SPEC = DestinationSpec(
    name="GOOGLE_ADWORDS_OFFLINE_CONVERSIONS",
    title="Google Ads Offline Conversions",
    kind="http",
    config=Config,
    message_types=frozenset({"track"}),
    doc_url=_DOC,
    mapper=make_mapper,
    classify=api.classify,
    oauth=OAuth(token_url=api.TOKEN_URL, scopes=(api.SCOPE,)),
    proof="each event",
    validation=api.validate_only,
    schemas=(
        _schema("uploadClickConversions", []),
        _schema("uploadCallConversions", ["callerId", "callStartDateTime"]),
    ),
    tables=(
        MappingTable(title="A click conversion", rows=_CLICK.rows),
        MappingTable(title="A call conversion", rows=_CALL.rows),
        MappingTable(title="A store conversion", rows=_STORE.rows),
        MappingTable(title="Cart data of a click conversion (of properties)", rows=_CART.rows),
        MappingTable(title="An item of the cart (of properties.products)", rows=_ITEM.rows),
    ),
    limits="2,000 conversions a request; a click's conversion from 6 hours to 90 days after it",
)
