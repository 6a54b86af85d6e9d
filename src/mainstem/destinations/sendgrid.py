"""SendGrid: contacts of Marketing Campaigns, and mails.

Follows https://www.twilio.com/docs/sendgrid/api-reference/contacts/add-or-update-a-contact and
https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send (Web API v3), read 2026-11. Auth: an API key as a
bearer token. Limits: 30,000 contacts or 6 MB a batch, 3 batches in 2 seconds; 1,000 recipients and 30 MB a mail.

An identify adds or updates a contact, on the list that the settings or the event name. A track that the settings list
sends a mail: what its properties don't say (sender, subject, content …) is taken from the settings.
"""

from collections.abc import Generator, Hashable, Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec

from mainstem.destinations.base import (
    Answer,
    Batch,
    Batcher,
    Call,
    DestinationSpec,
    Looking,
    MapContext,
    Mapper,
    MappingTable,
    Unit,
)
from mainstem.destinations.kit.batching import together, with_body
from mainstem.destinations.kit.body import json_bytes
from mainstem.destinations.kit.call import json_call
from mainstem.destinations.kit.dialogue import ok, or_postpone
from mainstem.destinations.kit.refuse import dialogue, refuse
from mainstem.destinations.kit.table import Row, Table
from mainstem.destinations.kit.values import (
    external_id,
    first,
    get,
    mapping,
    merged_deep,
    parse_int,
    present,
    sequence,
    text,
    without_empty,
)
from mainstem.events.canonical import Event
from mainstem.secret import Secret

Json = Any

_CONTACTS: Final = "https://api.sendgrid.com/v3/marketing/contacts"
_MAIL: Final = "https://api.sendgrid.com/v3/mail/send"
_FIELDS: Final = "https://api.sendgrid.com/v3/marketing/field_definitions"
_KNOWN_FOR_S: Final = 600.0
"""How long the account's custom fields are believed."""
_MOST: Final = 1_000
_MOST_BYTES: Final = 5_000_000


class EventName(msgspec.Struct, frozen=True):
    """An event that sends a mail."""

    event: str = ""


class Content(msgspec.Struct, frozen=True):
    """A part of the mail."""

    type: str = ""
    value: str = ""


class Attachment(msgspec.Struct, frozen=True, rename="camel"):
    """A file that goes with the mail."""

    content: str = ""
    filename: str = ""
    type: str = ""
    disposition: str = ""
    content_id: str = ""


class Group(msgspec.Struct, frozen=True, rename="camel"):
    """An unsubscribe group that is shown."""

    group_id: str = ""


class Field(msgspec.Struct, frozen=True):
    """A trait, and the custom field that it becomes."""

    source: str = msgspec.field(name="from", default="")
    target: str = msgspec.field(name="to", default="")


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings, under RudderStack's names."""

    api_key: Secret = Secret("")
    """API key with access to Marketing and Mail Send."""
    list_id: str = ""
    """List that contacts are put on; an event may name others (an external id `listIds`)."""
    custom_fields_mapping: tuple[Field, ...] = ()
    """Traits, and the names of the custom fields that they become."""
    event_names_settings: tuple[EventName, ...] = ()
    """Events that send a mail."""
    mail_from_traits: bool = False
    """Send the mail to the e-mail in the traits where the event names nobody."""
    from_email: str = ""
    """Sender where the event names none. It has to be verified with SendGrid."""
    from_name: str = ""
    """Name of the sender."""
    reply_to_email: str = ""
    """Where answers go, if the event does not say."""
    reply_to_name: str = ""
    """Name for answers."""
    subject: str = ""
    """Subject, if the event does not say."""
    template_id: str = ""
    """Template of the mail, if the event does not say."""
    contents: tuple[Content, ...] = ()
    """Parts of the mail, if the event has none."""
    attachments: tuple[Attachment, ...] = ()
    """Files that go with the mail, if the event has none; `content` is Base64."""
    group: str = ""
    """Unsubscribe group of the mail."""
    groups_to_display: tuple[Group, ...] = ()
    """Unsubscribe groups that are shown to the recipient."""
    ip_pool_name: str = msgspec.field(name="IPPoolName", default="")
    """Pool of addresses that the mail is sent from."""
    bypass_list_management: bool = False
    """Send it to those who have unsubscribed too. For mails that have to arrive only."""
    footer: bool = False
    """Add a footer."""
    footer_text: str = ""
    """The footer as text."""
    footer_html: str = ""
    """The footer as HTML."""
    sandbox_mode: bool = False
    """Let SendGrid check mails without sending them."""
    click_tracking: bool = False
    """Track clicks."""
    click_tracking_enable_text: bool = False
    """Track clicks in plain text too."""
    open_tracking: bool = False
    """Track opening."""
    open_tracking_substitution_tag: str = ""
    """Where the tracking pixel goes."""
    subscription_tracking: bool = False
    """Add a link to unsubscribe."""
    text: str = ""
    """Text of the link to unsubscribe, with `<% %>` for it."""
    html: str = ""
    """HTML of the link to unsubscribe, with `<% %>` for it."""
    substitution_tag: str = ""
    """Where the link to unsubscribe goes."""
    ganalytics: bool = False
    """Mark links for Google Analytics."""
    utm_source: str = ""
    """utm_source of the links."""
    utm_medium: str = ""
    """utm_medium of the links."""
    utm_term: str = ""
    """utm_term of the links."""
    utm_content: str = ""
    """utm_content of the links."""
    utm_campaign: str = ""
    """utm_campaign of the links."""
    NEEDED_TO_SEND: ClassVar = frozenset({"apiKey"})


_CONTACT: Final = Table(
    Row("email", "email"),
    Row("first_name", "firstName", "firstname", "first_name"),
    Row("last_name", "lastName", "lastname", "last_name"),
    Row("unique_name", "name"),
    Row("phone_number", "phone"),
    Row("alternate_emails", "alternate_emails", "alternateEmails"),
    Row("address_line_1", "address.street", "addressLine1"),
    Row("address_line_2", "addressLine2"),
    Row("city", "address.city"),
    Row("state_province_region", "address.state"),
    Row("postal_code", "address.postalCode"),
    Row("country", "address.country"),
    Row("whatsapp", "whatsapp"),
    Row("line", "line"),
    Row("facebook", "facebook"),
)
_OF_EVENT: Final = Table(
    Row("subject", "subject"),
    Row("template_id", "templateId", "template_id"),
    Row("ip_pool_name", "ipPoolName", "ip_pool_name", "IPPoolName"),
    Row("send_at", "sendAt", "send_at"),
    Row("batch_id", "batchId", "batch_id"),
    Row("categories", "categories"),
    Row("headers", "headers"),
    Row("custom_args", "customArgs", "custom_args"),
    Row("mail_settings", "mailSettings", "mail_settings"),
    Row("tracking_settings", "trackingSettings", "tracking_settings"),
)
_OF_PERSONALIZATION: Final = Table(
    Row("subject", "subject"),
    Row("headers", "headers"),
    Row("substitutions", "substitutions"),
    Row("dynamic_template_data", "dynamicTemplateData", "dynamic_template_data"),
    Row("custom_args", "customArgs", "custom_args"),
    Row("send_at", "sendAt", "send_at"),
)


def make_mapper(config: Config) -> Mapper:
    """Return the mapping for these settings."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {config.api_key.reveal()}"}
    usual = _usual(config)
    mailing = {one.event.strip().lower() for one in config.event_names_settings if one.event.strip()}

    def looking(event: Event, context: MapContext) -> Looking:
        if not config.api_key:
            refuse("`apiKey` is missing in the settings; give an API key of SendGrid's")
        if event.type == "identify":
            value = yield from _contact(event, config, headers)
            return (json_call(_CONTACTS, value, method="PUT", headers=headers),)
        if event.name.strip().lower() not in mailing:
            refuse("the settings do not list this event (`eventNamesSettings`) as one that sends a mail")
        return (json_call(_MAIL, _mail(event, config, usual), headers=headers),)

    return dialogue(looking)


# ---------------------------------------------------------------- contacts


def _contact(
    event: Event, config: Config, headers: Mapping[str, str]
) -> Generator[Call, Answer, dict[str, Json]]:
    """Return a contact and the lists it is for; SendGrid's body is made of it when it is batched."""
    message = event.message
    traits = mapping(message.get("traits")) or mapping(get(message, "context.traits"))
    contact = _CONTACT.build(traits)
    if "email" not in contact:
        refuse("`traits.email` is missing; SendGrid's contacts go by it")
    wanted = [
        (one.target, value)
        for one in config.custom_fields_mapping
        if one.target and one.source and present(value := get(traits, one.source))
    ]
    if wanted:
        ids = yield from _custom_fields(headers)
        fields = {ids[name]: value for name, value in wanted if name in ids}
        if fields:
            contact["custom_fields"] = fields
    for_batch: dict[str, Json] = {"contactDetails": contact}
    lists = external_id(message, "listIds") or config.list_id
    if present(lists):
        for_batch["contactListIds"] = lists
    return for_batch


def _custom_fields(headers: Mapping[str, str]) -> Generator[Call, Answer, dict[str, str]]:
    answer = yield Call(url=_FIELDS, method="GET", headers=headers, cache_s=_KNOWN_FOR_S)
    or_postpone(answer, "list of custom fields")
    if not ok(answer):
        refuse(f"SendGrid did not give its list of custom fields (http {answer.status})", answer.status)
    return {
        one["name"]: text(one.get("id"))
        for one in sequence(mapping(answer.body).get("custom_fields"))
        if isinstance(one, dict) and isinstance(one.get("name"), str) and present(one.get("id"))
    }


def make_batcher(config: Config) -> Batcher:
    """Return the batching: contacts for the same lists together, mails by themselves."""

    def key(unit: Unit) -> Hashable | None:
        call = unit.calls[0]
        if call.method != "PUT" or call.body is None:
            return None
        return json_bytes(call.body.value.get("contactListIds"))

    def merge(calls: Sequence[Call]) -> Call:
        values = [call.body.value for call in calls if call.body]
        body: dict[str, Json] = {"contacts": [value["contactDetails"] for value in values]}
        lists = values[0].get("contactListIds")
        if lists is not None:
            body["list_ids"] = lists if isinstance(lists, list) else [lists]
        return with_body(calls[0], body)

    def batch(units: Sequence[Unit]) -> Sequence[Batch]:
        return together(units, key=key, merge=merge, most=_MOST, most_bytes=_MOST_BYTES)

    return batch


# ---------------------------------------------------------------- mails


def _usual(config: Config) -> dict[str, Json]:
    """Return what a mail is where the event does not say otherwise."""
    attachments = [
        without_empty(
            {
                "content": one.content,
                "filename": one.filename,
                "type": one.type,
                "disposition": one.disposition,
                "content_id": one.content_id,
            }
        )
        for one in config.attachments
        if one.content and one.filename
    ]
    shown = [
        number for one in config.groups_to_display if (number := _group_number(one.group_id)) is not None
    ]
    group = _group_number(config.group)
    return without_empty(
        {
            "subject": config.subject,
            "template_id": config.template_id,
            "ip_pool_name": config.ip_pool_name,
            "from": _address(config.from_email, config.from_name),
            "reply_to": _address(config.reply_to_email, config.reply_to_name),
            "content": [
                {"type": one.type, "value": one.value} for one in config.contents if one.type and one.value
            ],
            "attachments": attachments,
            "asm": {} if group is None else without_empty({"group_id": group, "groups_to_display": shown}),
            "mail_settings": _mail_settings(config),
            "tracking_settings": _tracking_settings(config),
        }
    )


def _group_number(value: Json) -> int | None:
    stripped = text(value).strip()
    return parse_int(stripped) if stripped.isascii() and stripped.isdigit() else None


def _address(email: str, name: str) -> dict[str, Json]:
    return without_empty({"email": email, "name": name}) if email else {}


def _mail_settings(config: Config) -> dict[str, Json]:
    settings: dict[str, Json] = {}
    if config.bypass_list_management:
        settings["bypass_list_management"] = {"enable": True}
    if config.footer:
        settings["footer"] = without_empty(
            {"enable": True, "text": config.footer_text, "html": config.footer_html}
        )
    if config.sandbox_mode:
        settings["sandbox_mode"] = {"enable": True}
    return settings


def _tracking_settings(config: Config) -> dict[str, Json]:
    settings: dict[str, Json] = {}
    if config.click_tracking:
        settings["click_tracking"] = {"enable": True, "enable_text": config.click_tracking_enable_text}
    if config.open_tracking:
        settings["open_tracking"] = without_empty(
            {"enable": True, "substitution_tag": config.open_tracking_substitution_tag}
        )
    if config.subscription_tracking:
        settings["subscription_tracking"] = without_empty(
            {
                "enable": True,
                "text": config.text,
                "html": config.html,
                "substitution_tag": config.substitution_tag,
            }
        )
    if config.ganalytics:
        settings["ganalytics"] = without_empty(
            {
                "enable": True,
                "utm_source": config.utm_source,
                "utm_medium": config.utm_medium,
                "utm_term": config.utm_term,
                "utm_content": config.utm_content,
                "utm_campaign": config.utm_campaign,
            }
        )
    return settings


def _mail(event: Event, config: Config, usual: Mapping[str, Json]) -> dict[str, Json]:
    message = event.message
    properties = mapping(message.get("properties"))
    mail = {**usual, **_OF_EVENT.build(properties)}
    recipients = _personalizations(properties)
    email = first(message, "traits.email", "context.traits.email")
    if not recipients and config.mail_from_traits and email is not None:
        recipients = [{"to": [{"email": email}]}]
    if not recipients:
        refuse("`properties.personalizations` has nobody with an `email` in `to`; a mail needs a recipient")
    mail["personalizations"] = recipients
    for name, target in (("from", "from"), ("replyTo", "reply_to"), ("reply_to", "reply_to")):
        if present(mapping(properties.get(name)).get("email")):
            mail[target] = properties[name]
    for names, target, needs in _LISTS:
        entries = [
            one
            for name in names
            for one in sequence(properties.get(name))
            if isinstance(one, dict) and all(present(one.get(need)) for need in needs)
        ]
        if entries:
            mail[target] = entries
    group = _group_number(get(properties, "asm.groupId") or get(properties, "asm.group_id"))
    if group is not None:
        mail["asm"] = without_empty(
            {
                "group_id": group,
                "groups_to_display": [
                    number
                    for one in sequence(
                        get(properties, "asm.groupsToDisplay") or get(properties, "asm.groups_to_display")
                    )
                    if (number := _group_number(one)) is not None
                ],
            }
        )
    if "from" not in mail:
        refuse("`properties.from.email` is missing, in the settings too (`fromEmail`); a mail needs a sender")
    if "template_id" not in mail and "content" not in mail:
        refuse(
            "the event and the settings have neither `contents` nor `templateId`; a mail needs one of them"
        )
    return mail


_LISTS: Final = (
    (("content", "contents"), "content", ("type", "value")),
    (("attachments",), "attachments", ("content", "filename")),
)


def _personalizations(properties: Mapping[str, Json]) -> list[Json]:
    """Return those with a recipient."""
    found: list[Json] = []
    for one in sequence(properties.get("personalizations")):
        if not isinstance(one, dict):
            continue
        people = {
            field: with_email
            for field in ("to", "cc", "bcc")
            if (with_email := [who for who in sequence(one.get(field)) if present(mapping(who).get("email"))])
        }
        if "to" in people:
            found.append({**_OF_PERSONALIZATION.build(one), **people})
    return found


def validation(config: Config, call: Call) -> Call | None:
    """Return the mail in sandbox mode, in which SendGrid checks it without sending it; None for contacts.

    https://www.twilio.com/docs/sendgrid/for-developers/sending-email/sandbox-mode
    """
    if call.url != _MAIL or call.body is None:
        return None
    return with_body(
        call, merged_deep(call.body.value, {"mail_settings": {"sandbox_mode": {"enable": True}}})
    )


SPEC = DestinationSpec(
    name="SENDGRID",
    title="SendGrid",
    kind="http",
    config=Config,
    message_types=frozenset({"identify", "track"}),
    doc_url="https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send",
    mapper=make_mapper,
    batcher=make_batcher,
    default_max_batch=_MOST,
    proof="validation",
    validation=validation,
    tables=(MappingTable(title="Contact, from traits", rows=_CONTACT.rows),),
    limits="30,000 contacts or 6 MB a batch, 3 batches in 2 seconds; 1,000 recipients and 30 MB a mail",
)
