"""Slack: a message in a channel for each event, by an incoming webhook.

Follows https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks/ and RudderStack's settings
(https://www.rudderstack.com/docs/destinations/streaming-destinations/slack/; both read 2026-11). Auth: the webhook's
URL. Limits: one message a second and channel, short bursts allowed; 40,000 characters a message (longer ones are cut).

An identify is told by `identifyTemplate`, a track by the first template whose event name fits. Templates are
Handlebars: `{{name}}`, `{{event}}`, `{{traits}}`, `{{traitsList.plan}}`, `{{propertiesList}}`, `{{properties.plan}}`
or `{{plan}}`, `{{newline}}`. A track can go to a channel of its own: by that channel's webhook (`modern`), or by its
name in the message (`legacy`, which only webhooks of the old custom integrations heed).
"""

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from mainstem.destinations.base import (
    Delivered,
    Delivery,
    DestinationSpec,
    MapContext,
    Mapper,
    Payloads,
    Request,
    Response,
    Retry,
)
from mainstem.destinations.kit.body import json_bytes
from mainstem.destinations.kit.call import form_call
from mainstem.destinations.kit.handlebars import Render, TemplateInvalid, compile_message
from mainstem.destinations.kit.refuse import refuse, settled, skip
from mainstem.destinations.kit.spoken import by_event_name, listed, person_name, traits_told
from mainstem.destinations.kit.values import cut_utf16, mapping
from mainstem.destinations.kit.wire import url_error
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_IDENTIFY: Final = "Identified {{name}} {{traits}}"
_TRACK: Final = "{{name}} did {{event}}"
_LONGEST: Final = 40_000
_RUDDERSTACK_ICON: Final = "https://cdn.rudderlabs.com/rudderstack.png"

# https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks/#handling_errors: the webhook or its channel
# is gone or forbidden. People repair that; until then nothing may be lost.
_WEBHOOK_GONE: Final = frozenset(
    {
        "action_prohibited",
        "channel_is_archived",
        "channel_not_found",
        "invalid_token",
        "no_active_hooks",
        "no_service",
        "no_service_id",
        "no_team",
        "team_disabled",
    }
)


class EventTemplate(msgspec.Struct, frozen=True, rename="camel"):
    """A template for events of a name."""

    event_name: str = ""
    event_template: str = ""
    event_regex: bool = False


class EventChannel(msgspec.Struct, frozen=True, rename="camel"):
    """A channel for events of a name."""

    event_name: str = ""
    event_regex: bool = False
    event_channel: str = ""
    event_channel_webhook: str = ""

    def __repr__(self) -> str:
        return f"EventChannel({self.event_name!r} -> {self.event_channel or '***'})"


class Trait(msgspec.Struct, frozen=True):
    """One of `whitelistedTraitsSettings`."""

    trait: str = ""


class Denied(msgspec.Struct, frozen=True, rename="camel"):
    """One of `denyListOfEvents`."""

    event_name: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    webhook_url: Secret
    """The webhook that messages go to which no row of `eventChannelSettings` sends elsewhere."""
    incoming_webhooks_type: str = "legacy"
    """`modern`: a track goes to the webhook of its row of `eventChannelSettings`. `legacy`: it goes to `webhookUrl`
    and names the row's channel."""
    event_channel_settings: tuple[EventChannel, ...] = ()
    """Rows `{eventName, eventRegex, eventChannel, eventChannelWebhook}`: channels of tracks; the first whose name fits
    is taken."""
    identify_template: str = ""
    """The message of an identify; empty = `Identified {{name}}` and the traits."""
    event_template_settings: tuple[EventTemplate, ...] = ()
    """Rows `{eventName, eventRegex, eventTemplate}`: the messages of tracks; the first whose name fits is taken. A
    track without one is told by `{{name}} did {{event}}`."""
    whitelisted_traits_settings: tuple[Trait, ...] = ()
    """Rows `{trait}`: the traits that `{{traits}}` names, in this order; none = all."""
    deny_list_of_events: tuple[Denied, ...] = ()
    """Rows `{eventName}`: names of tracks that are not told, exactly as they are."""

    def __post_init__(self) -> None:
        for row in self.event_channel_settings:
            if row.event_channel_webhook and (problem := url_error(row.event_channel_webhook)):
                raise ValueError(f"`eventChannelSettings`: `eventChannelWebhook` {problem}")
        try:
            compile_message(self.identify_template)
        except TemplateInvalid as error:
            raise ValueError(f"`identifyTemplate`: {error}") from None
        try:
            _templates(self)
        except (re.error, TemplateInvalid) as error:
            raise ValueError(f"`eventTemplateSettings`: {error}") from None
        try:
            _channels(self)
        except re.error as error:
            raise ValueError(f"`eventChannelSettings`: {error}") from None

    def warnings(self) -> tuple[tuple[str, str], ...]:
        """Return what is allowed but hardly meant: (setting, text)."""
        problem = url_error(self.webhook_url.reveal())
        return (("webhookUrl", problem),) if problem else ()


def _templates(config: Config) -> Callable[[str], Render | None]:
    return by_event_name(
        (row.event_name, row.event_regex, compile_message(row.event_template))
        for row in config.event_template_settings
        if row.event_template
    )


def _channels(config: Config) -> Callable[[str], EventChannel | None]:
    modern = config.incoming_webhooks_type == "modern"
    return by_event_name(
        (row.event_name, row.event_regex, row)
        for row in config.event_channel_settings
        if (row.event_channel_webhook if modern else row.event_channel)
    )


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    url = config.webhook_url.reveal()
    modern = config.incoming_webhooks_type == "modern"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    only = [row.trait for row in config.whitelisted_traits_settings if row.trait]
    denied = frozenset(row.event_name for row in config.deny_list_of_events if row.event_name)
    identify = compile_message(config.identify_template or _IDENTIFY)
    track, template_of, channel_of = compile_message(_TRACK), _templates(config), _channels(config)

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        traits = traits_told(message)
        scope: dict[str, Json] = {
            "name": person_name(message),
            "traits": listed(traits, only),
            "traitsList": traits,
            "newline": "\n",
        }
        channel = None
        render = identify
        if event.type == "track":
            if not event.name:
                refuse("`event` is missing; a message says what happened")
            if event.name in denied:
                skip("event on the deny list")
            properties = mapping(message.get("properties"))
            told = listed(properties)
            scope = {**properties, **scope, "event": event.name, "properties": told, "propertiesList": told}
            render = template_of(event.name) or track
            channel = channel_of(event.name)
        else:
            scope = {**traits, **scope}
        payload: dict[str, Json] = {"text": cut_utf16(render(scope), _LONGEST)}
        target = url
        if channel is not None and modern:
            target = channel.event_channel_webhook
        elif channel is not None:
            payload = {"channel": channel.event_channel, **payload}
        payload["username"] = context.partner
        if context.partner == "RudderStack":
            payload["icon_url"] = _RUDDERSTACK_ICON
        call = form_call(
            target,
            {"payload": json_bytes(payload).decode()},
            headers=headers,
            user_id=message.get("userId") or message.get("anonymousId"),
            extra={"statusCode": 200},
            secrets=(target,),
        )
        return (call,)

    return settled(to_calls)


def classify(request: Request, response: Response) -> Delivery | None:
    """Slack says `ok` of a message that it posts, and names what is wrong with a webhook."""
    said = response.body[:64].decode("utf-8", "replace").strip()
    if response.status == 200 and said == "ok":
        return Delivered("200 ok", acceptance="accepted")
    if said in _WEBHOOK_GONE:
        return Retry(f"slack: {said}", destination_wide=True, answer=f"{response.status} {said}")
    return None


SPEC = DestinationSpec(
    name="SLACK",
    title="Slack",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track"}),
    doc_url="https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks/",
    mapper=make_mapper,
    classify=classify,
    default_concurrency=1,
    proof="body",
    limits="one message a second and channel",
)
