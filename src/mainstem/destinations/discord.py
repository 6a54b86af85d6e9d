"""Discord: a message in a channel for each event, by an incoming webhook.

Follows https://discord.com/developers/docs/resources/webhook#execute-webhook (API v10) and RudderStack's settings
(https://www.rudderstack.com/docs/destinations/streaming-destinations/discord/; both read 2026-11). Auth: the webhook's
URL. Limits: 2,000 characters a message (longer ones are cut), 30 messages a minute and channel; Discord says when to
go on (429 with Retry-After).

An identify is told by `identifyTemplate`, a track by the first template whose event name fits. Templates are
Handlebars: `{{name}}`, `{{event}}`, `{{traits}}`, `{{properties}}`, `{{properties.plan}}`. With `embedFlag` the
message has an embed too.
"""

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from mainstem.destinations.base import DestinationSpec, MapContext, Mapper, Payloads
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.handlebars import Render, TemplateInvalid, compile_message
from mainstem.destinations.kit.refuse import refuse, settled
from mainstem.destinations.kit.spoken import by_event_name, listed, person_name, traits_told
from mainstem.destinations.kit.values import cut_utf16, mapping
from mainstem.destinations.kit.wire import url_error
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_IDENTIFY: Final = "Identified {{name}} with {{traits}}"
_TRACK: Final = "{{name}} did {{event}} with {{properties}}"
_LONGEST: Final = 2000


class EventTemplate(msgspec.Struct, frozen=True, rename="camel"):
    """A template for events of a name."""

    event_name: str = ""
    event_template: str = ""
    event_regex: bool = False


class Trait(msgspec.Struct, frozen=True):
    """One of `whitelistedTraitsSettings`."""

    trait: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    webhook_url: Secret
    """The channel's webhook URL. Whoever knows it can write there."""
    identify_template: str = ""
    """The message of an identify; empty = `Identified {{name}} with {{traits}}`."""
    event_template_settings: tuple[EventTemplate, ...] = ()
    """Rows `{eventName, eventRegex, eventTemplate}`: the messages of tracks; the first whose name fits is taken. A
    track without one is told by `{{name}} did {{event}} with {{properties}}`."""
    whitelisted_traits_settings: tuple[Trait, ...] = ()
    """Rows `{trait}`: the traits that `{{traits}}` names, in this order; none = all."""
    embed_flag: bool = False
    """Add an embed to each message."""
    embed_title_template: str = ""
    """The embed's title; empty = `Message from Mainstem`."""
    embed_description_template: str = ""
    """The embed's text; empty = `Track call made` or `Identify call made`."""

    def __post_init__(self) -> None:
        texts = {
            "identifyTemplate": self.identify_template,
            "embedTitleTemplate": self.embed_title_template,
            "embedDescriptionTemplate": self.embed_description_template,
        }
        for name, template in texts.items():
            try:
                compile_message(template)
            except TemplateInvalid as error:
                raise ValueError(f"`{name}`: {error}") from None
        try:
            _templates(self)
        except (re.error, TemplateInvalid) as error:
            raise ValueError(f"`eventTemplateSettings`: {error}") from None

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


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    url = config.webhook_url.reveal()
    headers = {"Content-Type": "application/json"}
    only = [row.trait for row in config.whitelisted_traits_settings if row.trait]
    identify = compile_message(config.identify_template or _IDENTIFY)
    track, template_of = compile_message(_TRACK), _templates(config)
    title = compile_message(config.embed_title_template)
    description = compile_message(config.embed_description_template)

    def to_calls(event: Event, context: MapContext) -> Payloads:
        message = event.message
        traits = traits_told(message)
        scope: dict[str, Json] = {
            "name": person_name(message),
            "traits": listed(traits, only),
            "traitsList": traits,
        }
        render = identify
        if event.type == "track":
            if not event.name:
                refuse("`event` is missing; a message says what happened")
            properties = mapping(message.get("properties"))
            scope = {**properties, **scope, "event": event.name, "properties": listed(properties)}
            scope["propertiesList"] = scope["properties"]
            render = template_of(event.name) or track
        else:
            scope = {**traits, **scope}
        body: dict[str, Json] = {"content": cut_utf16(render(scope), _LONGEST)}
        if config.embed_flag:
            body["embeds"] = [
                {
                    "title": title(scope) or f"Message from {context.partner}",
                    "description": description(scope) or f"{event.type.capitalize()} call made",
                }
            ]
        return (json_call(url, body, headers=headers, secrets=(url,)),)

    return settled(to_calls)


SPEC = DestinationSpec(
    name="DISCORD",
    title="Discord",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track"}),
    doc_url="https://discord.com/developers/docs/resources/webhook#execute-webhook",
    mapper=make_mapper,
    default_concurrency=1,
    limits="2,000 characters a message; 30 messages a minute and channel",
)
