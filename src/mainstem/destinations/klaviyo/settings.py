"""Klaviyo's settings, and what both of its ways of writing requests begin with."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mainstem.destinations.base import Call
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.values import external_id, flattened, mapping, present, sequence, text
from mainstem.secret import Secret

Json = Any

HOST: Final = "https://a.klaviyo.com"
REVISIONS: Final = {"v1": "2023-02-22", "v2": "2024-10-15", "v3": "2026-04-15"}
"""https://developers.klaviyo.com/en/docs/api_versioning_and_deprecation_policy."""
SUBSCRIBE: Final = "/api/profile-subscription-bulk-create-jobs"
UNSUBSCRIBE: Final = "/api/profile-subscription-bulk-delete-jobs"


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    private_api_key: Secret
    """A private API key with access to profiles, events, lists and subscriptions."""
    public_api_key: str | None = None
    """The account's public API key; for the browser, not used here."""
    api_version: str = "v1"
    """Which revision of Klaviyo's API to speak: `v3` (2026-04-15), `v2` (2024-10-15), or `v1` (2023-02-22), which
    Klaviyo has deprecated and which is there for settings that don't say."""
    list_id: str | None = None
    """The list to subscribe people to, where an event does not name one (`traits.properties.listId`)."""
    consent: str | tuple[str, ...] = ()
    """Channels that people consent to, where an event does not say (`consent`): `email`, `sms`."""
    enforce_email_as_primary: bool = False
    """Know people by e-mail and phone only; the user id becomes the custom property `_id`."""
    flatten_properties: bool = False
    """Write nested properties as flat ones with dotted names, so that they can be used in segments."""

    def warnings(self) -> Sequence[tuple[str, str]]:
        """Return what is allowed but hardly meant."""
        if self.version == "v1":
            return (("apiVersion", "Klaviyo has deprecated revision 2023-02-22; set it to v3"),)
        return ()

    @property
    def version(self) -> str:
        return self.api_version if self.api_version in REVISIONS else "v1"

    @property
    def channels(self) -> tuple[str, ...]:
        return channels_of(self.consent)


def channels_of(value: Json) -> tuple[str, ...]:
    """Return the channels that a consent names: a text, a list, or rows of `{consent}` as the dashboard saves them."""
    items = (
        [value] if isinstance(value, str) else list(value) if isinstance(value, tuple) else sequence(value)
    )
    names = (mapping(item).get("consent") if isinstance(item, dict) else item for item in items)
    return tuple(name for name in names if isinstance(name, str) and name)


def request(config: Config, path: str, value: Json, *, method: str = "POST", label: str = "") -> Call:
    """Return a request to Klaviyo."""
    headers = {
        "Authorization": f"Klaviyo-API-Key {config.private_api_key.reveal()}",
        "Content-Type": "application/json",
        "Accept": "application/json",
        "revision": REVISIONS[config.version],
    }
    return json_call(HOST + path, value, method=method, headers=headers, label=label or path)


def profile_id(message: dict[str, Json]) -> str:
    """Return Klaviyo's own id of the profile, if the event knows it."""
    found = external_id(message, "klaviyo-profileId")
    return text(found) if isinstance(found, str | int) and present(found) else ""


def flat_where_asked(config: Config, properties: dict[str, Json]) -> dict[str, Json]:
    """Return properties, flat if the settings say so; lists stay lists."""
    return flattened(properties, lists="whole") if config.flatten_properties else properties
