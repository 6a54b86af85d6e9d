"""All destination types by name, and the one way their settings are checked.

Ours are one line each below. A third party's package adds one with an entry point in the group
`mainstem.destinations` whose object is a `DestinationSpec`.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final, Literal, Protocol, get_args, get_origin, runtime_checkable

import msgspec

from mainstem.destinations.base import DestinationSpec, OAuthGrant
from mainstem.secret import Secret

_OURS: Final = {
    "ACTIVE_CAMPAIGN": "mainstem.destinations.active_campaign:SPEC",
    "ADJ": "mainstem.destinations.adj:SPEC",
    "AF": "mainstem.destinations.af:SPEC",
    "ALGOLIA": "mainstem.destinations.algolia:SPEC",
    "AM": "mainstem.destinations.am:SPEC",
    "ARCHIVE": "mainstem.destinations.archive:SPEC",
    "AZURE_BLOB": "mainstem.destinations.archive:AZURE_BLOB",
    "AZURE_DATALAKE": "mainstem.warehouse.loaders.parquet:AZURE",
    "AZURE_EVENT_HUB": "mainstem.destinations.azure_event_hub:SPEC",
    "BQ": "mainstem.warehouse.loaders.bigquery:DESTINATION",
    "BRANCH": "mainstem.destinations.branch:SPEC",
    "BRAZE": "mainstem.destinations.braze:SPEC",
    "CLEVERTAP": "mainstem.destinations.clevertap:SPEC",
    "CLICKHOUSE": "mainstem.warehouse.loaders.clickhouse:DESTINATION",
    "CONFLUENT_CLOUD": "mainstem.destinations.confluent_cloud:SPEC",
    "CRITEO_AUDIENCE": "mainstem.destinations.criteo_audience:SPEC",
    "CUSTOMERIO": "mainstem.destinations.customerio:SPEC",
    "DATABRICKS": "mainstem.warehouse.loaders.databricks:DESTINATION",
    "DELTALAKE": "mainstem.warehouse.loaders.delta:DESTINATION",
    "DIGITAL_OCEAN_SPACES": "mainstem.destinations.archive:DIGITAL_OCEAN_SPACES",
    "DISCORD": "mainstem.destinations.discord:SPEC",
    "DUCKDB": "mainstem.warehouse.loaders.duckdb:DESTINATION",
    "EVENTBRIDGE": "mainstem.destinations.eventbridge:SPEC",
    "FACEBOOK_CONVERSIONS": "mainstem.destinations.facebook_conversions:SPEC",
    "FACEBOOK_PIXEL": "mainstem.destinations.facebook_pixel:SPEC",
    "FB_CUSTOM_AUDIENCE": "mainstem.destinations.fb_custom_audience:SPEC",
    "GA4": "mainstem.destinations.ga4:SPEC",
    "GCS": "mainstem.destinations.archive:GCS",
    "GCS_DATALAKE": "mainstem.warehouse.loaders.parquet:GCS",
    "GOOGLEPUBSUB": "mainstem.destinations.googlepubsub:SPEC",
    "GOOGLE_ADWORDS_ENHANCED_CONVERSIONS": "mainstem.destinations.google_adwords_enhanced_conversions:SPEC",
    "GOOGLE_ADWORDS_OFFLINE_CONVERSIONS": "mainstem.destinations.google_adwords_offline_conversions:SPEC",
    "GOOGLE_ADWORDS_REMARKETING_LISTS": "mainstem.destinations.google_adwords_remarketing_lists:SPEC",
    "HEAP": "mainstem.destinations.heap:SPEC",
    "HS": "mainstem.destinations.hs:SPEC",
    "HTTP": "mainstem.destinations.http:SPEC",
    "ICEBERG": "mainstem.warehouse.loaders.iceberg:DESTINATION",
    "ICEBERG_ARCHIVE": "mainstem.destinations.iceberg_archive:SPEC",
    "INDICATIVE": "mainstem.destinations.indicative:SPEC",
    "INTERCOM": "mainstem.destinations.intercom:SPEC",
    "ITERABLE": "mainstem.destinations.iterable:SPEC",
    "KAFKA": "mainstem.destinations.kafka:SPEC",
    "KEEN": "mainstem.destinations.keen:SPEC",
    "KINESIS": "mainstem.destinations.kinesis:SPEC",
    "KISSMETRICS": "mainstem.destinations.kissmetrics:SPEC",
    "KLAVIYO": "mainstem.destinations.klaviyo:SPEC",
    "LAUNCHDARKLY_AUDIENCE": "mainstem.destinations.launchdarkly_audience:SPEC",
    "LINKEDIN_ADS": "mainstem.destinations.linkedin_ads:SPEC",
    "MAILCHIMP": "mainstem.destinations.mailchimp:SPEC",
    "MARKETO": "mainstem.destinations.marketo:SPEC",
    "MINIO": "mainstem.destinations.archive:MINIO",
    "MOENGAGE": "mainstem.destinations.moengage:SPEC",
    "MP": "mainstem.destinations.mp:SPEC",
    "MYSQL": "mainstem.warehouse.loaders.mysql:DESTINATION",
    "OPTIMIZELY_FULLSTACK": "mainstem.destinations.optimizely_fullstack:SPEC",
    "PARQUET": "mainstem.warehouse.loaders.parquet:DESTINATION",
    "PINTEREST_TAG": "mainstem.destinations.pinterest_tag:SPEC",
    "POSTGRES": "mainstem.warehouse.loaders.postgres:DESTINATION",
    "POSTHOG": "mainstem.destinations.posthog:SPEC",
    "REDDIT": "mainstem.destinations.reddit:SPEC",
    "REDIS": "mainstem.destinations.redis:SPEC",
    "RS": "mainstem.warehouse.loaders.redshift:DESTINATION",
    "S3": "mainstem.destinations.archive:S3",
    "S3_DATALAKE": "mainstem.warehouse.loaders.parquet:S3",
    "SALESFORCE": "mainstem.destinations.salesforce:SPEC",
    "SALESFORCE_OAUTH": "mainstem.destinations.salesforce:OAUTH",
    "SALESFORCE_OAUTH_SANDBOX": "mainstem.destinations.salesforce:OAUTH_SANDBOX",
    "SEGMENT": "mainstem.destinations.segment:SPEC",
    "SENDGRID": "mainstem.destinations.sendgrid:SPEC",
    "SINGULAR": "mainstem.destinations.singular:SPEC",
    "SLACK": "mainstem.destinations.slack:SPEC",
    "SNAPCHAT_CONVERSION": "mainstem.destinations.snapchat_conversion:SPEC",
    "SNOWFLAKE": "mainstem.warehouse.loaders.snowflake:DESTINATION",
    "STATSIG": "mainstem.destinations.statsig:SPEC",
    "TIKTOK_ADS": "mainstem.destinations.tiktok_ads:SPEC",
    "WEBENGAGE": "mainstem.destinations.webengage:SPEC",
    "WEBHOOK": "mainstem.destinations.webhook:SPEC",
    "ZENDESK": "mainstem.destinations.zendesk:SPEC",
}

# What RudderStack keeps in every destination's settings and other parts of Mainstem read, or need not.
_COMMON_KEYS: Final = frozenset(
    {
        "connectionMode",
        "consentManagement",
        "eventFilteringOption",
        "whitelistedEvents",
        "blacklistedEvents",
        "ketchConsentPurposes",
        "oneTrustCookieCategories",
        "useNativeSDK",
        "enableServerSideIdentify",
    }
)


OAUTH: Final = "oauth"
"""The setting with a destination's `OAuthGrant`."""
OAUTH_SECRETS: Final = frozenset({f"{OAUTH}.clientSecret", f"{OAUTH}.refreshToken"})
_REQUIRED: Final = "is missing; it is required"


class ConfigResult(msgspec.Struct, frozen=True):
    """Settings as the type wants them, or what is wrong with them."""

    config: Any = None
    errors: tuple[tuple[str, str], ...] = ()
    """(path within the settings, what is wrong and what would be right)."""
    warnings: tuple[tuple[str, str], ...] = ()


@cache
def _third_party() -> Mapping[str, DestinationSpec]:
    found = {}
    for point in entry_points(group="mainstem.destinations"):
        spec = point.load()
        if isinstance(spec, DestinationSpec):
            found[spec.name.upper()] = spec
    return found


@cache
def find_spec(name: str) -> DestinationSpec | None:
    """Return the specification of a type; case does not matter. None if there is no such type."""
    upper = name.upper()
    place = _OURS.get(upper)
    if place is not None:
        module, _, attribute = place.partition(":")
        spec = getattr(import_module(module), attribute)
        assert isinstance(spec, DestinationSpec)  # noqa: S101 - our own table
        return spec
    return _third_party().get(upper)


def names() -> list[str]:
    """Return the names of all types, sorted."""
    return sorted({*_OURS, *_third_party()})


def check_config(type_name: str, raw: Mapping[str, Any], *, to_send: bool = True) -> ConfigResult:
    """Return a destination's settings as its type's struct, or every problem found.

    Args:
        to_send: whether settings that only sending needs (`NEEDED_TO_SEND` of the struct) have to be there.

    Numbers and booleans may be given as text, as RudderStack's dashboard saves them. Values that are
    `Secret` (from the environment) fit any text field.
    """
    spec = find_spec(type_name)
    if spec is None:
        close = difflib.get_close_matches(type_name.upper(), names(), n=1)
        hint = f"; did you mean `{close[0]}`?" if close else f"; there are {', '.join(names())}"
        return ConfigResult(errors=(("type", f"no destination type `{type_name}`{hint}"),))
    known = _COMMON_KEYS | {OAUTH} if spec.oauth is not None else _COMMON_KEYS
    warnings = tuple(item for item in unknown_settings(spec.config, raw) if item[0] not in known)
    result = check_settings(spec.config, raw)
    if to_send:
        lacking = _lacking(spec, raw)
        if lacking:
            return ConfigResult(errors=result.errors + lacking, warnings=warnings)
    return msgspec.structs.replace(result, warnings=warnings + result.warnings)


def _lacking(spec: DestinationSpec, raw: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return what only sending needs and is not there, or not right."""
    needed: frozenset[str] = getattr(spec.config, "NEEDED_TO_SEND", frozenset())
    lacking = [(name, _REQUIRED) for name in sorted(needed) if not raw.get(name)]
    if spec.oauth is not None:
        given = raw.get(OAUTH)
        if isinstance(given, Mapping):
            lacking += [(f"{OAUTH}.{path}", text) for path, text in check_settings(OAuthGrant, given).errors]
        else:
            lacking.append((OAUTH, f"{_REQUIRED}: clientId, clientSecret and refreshToken"))
    return tuple(lacking)


def oauth_grant(raw: Mapping[str, Any]) -> OAuthGrant | None:
    """Return what a destination's settings give for OAuth; None without."""
    given = raw.get(OAUTH)
    grant: OAuthGrant | None = (
        check_settings(OAuthGrant, given).config if isinstance(given, Mapping) else None
    )
    return grant


def unknown_settings(struct: type[msgspec.Struct], raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (key, text) for each setting that the struct has no field for; the text suggests the nearest."""
    known = [field.encode_name for field in msgspec.structs.fields(struct)]
    return [
        (key, _unknown_key(key, known))
        for key, value in raw.items()
        if value is not None and key not in known
    ]


def check_settings(struct: type[msgspec.Struct], raw: Mapping[str, Any]) -> ConfigResult:
    """Return the struct that settings are, or every problem found in them; unknown keys are passed over.

    A value that is null counts as not given: RudderStack's dashboard saves settings left empty so.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    given = {key: value for key, value in _plain(raw).items() if key in fields and value is not None}
    errors = [problem for key, value in given.items() if (problem := _field_error(fields[key], value))]
    errors += [(name, _REQUIRED) for name, field in fields.items() if field.required and name not in given]
    if errors:
        return ConfigResult(errors=tuple(errors))
    try:
        config = msgspec.convert(given, struct, strict=False, dec_hook=_to_secret)
    except msgspec.ValidationError as error:
        # What concerns several settings, from the struct's own check.
        return ConfigResult(errors=(_of_its_field(str(error)),))
    return ConfigResult(
        config=config, warnings=tuple(config.warnings()) if isinstance(config, _Warns) else ()
    )


@runtime_checkable
class _Warns(Protocol):
    """Settings that know what is allowed but hardly meant."""

    def warnings(self) -> Sequence[tuple[str, str]]: ...


def _field_error(field: msgspec.structs.FieldInfo, value: Any) -> tuple[str, str] | None:
    """Return (path, text) of what is wrong with one setting by itself."""
    try:
        msgspec.convert(value, field.type, strict=False, dec_hook=_to_secret)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        if get_origin(field.type) is Literal:
            message = f"is not one of {', '.join(map(str, get_args(field.type)))}"
        return field.encode_name + place.rstrip("`"), message
    return None


def secret_fields(config: type[msgspec.Struct]) -> frozenset[str]:
    """Return the names, as configured, of a type's settings that are secrets or hold some.

    Those typed `Secret`, and those that the struct lists in `SECRET_FIELDS` because only some of their values are.
    """
    typed = {field.encode_name for field in msgspec.structs.fields(config) if field.type is Secret}
    return frozenset(typed | getattr(config, "SECRET_FIELDS", frozenset()))


def _plain(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _to_secret(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise msgspec.ValidationError(f"Expected text, got {type(value).__name__}")


def _unknown_key(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return "no such setting" + (f"; did you mean `{close[0]}`?" if close else "; it is ignored")


def _of_its_field(message: str) -> tuple[str, str]:
    """Split "`url` is missing", as a settings struct says it, into the setting and what is wrong with it."""
    name, mark, rest = message.removeprefix("`").partition("`")
    return (name, rest.lstrip(": ")) if mark and message.startswith("`") else ("", message)
