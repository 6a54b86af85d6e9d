"""Which events go on: by name, by the user's e-mail domain, by a share of the users, by whether a bot sent them."""

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from mainstem.events.canonical import field_at, id_text
from mainstem.events.names import NAMED_TYPES, name_matcher
from mainstem.events.sampling import in_sample, threshold_of
from mainstem.events.user_agent import bot_name
from mainstem.transformations.base import About, Change, Dropped, Kept, Result
from mainstem.transformations.ready.base import ReadySpec, Tools
from mainstem.transformations.ready.edit import check_path, first_text
from mainstem.workspace.model import Share

_DROPPED: Final = Dropped()
_EMAIL_PATHS: Final = ("traits.email", "context.traits.email", "properties.email")


class EventNamesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `keep_event_names` and `drop_event_names` are told."""

    names: tuple[str, ...]
    """Exact names, or with `*` for any text (`Order *`). Case counts."""

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(
                "`names` is empty; write at least one event name, or a pattern such as `Order *`"
            )


class EmailDomainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the e-mail domain lists are told."""

    domains: tuple[str, ...]
    """Domains as they stand behind the @; `*.example.com` means every domain below it. Case does not matter."""
    paths: tuple[str, ...] = _EMAIL_PATHS
    """Where the address may be; the first that holds a text counts."""
    missing: Literal["pass", "drop"] = "pass"
    """What becomes of events without an address."""

    def __post_init__(self) -> None:
        if not self.domains:
            raise ValueError("`domains` is empty; write at least one, such as `example.com`")
        for domain in self.domains:
            if "@" in domain or "*" in domain.removeprefix("*.") or not domain.removeprefix("*."):
                raise ValueError(
                    f"`domains`: `{domain}` is no domain; write `example.com` or `*.example.com`"
                )
        for path in self.paths:
            check_path("paths", path, one=True)


class SampleUsersSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `sample_users` is told."""

    percent: Share
    """The share of the users whose events go on, 0 to 100."""


class DropBotsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `drop_bots` is told."""

    user_agents: tuple[str, ...] = ()
    """More User-Agents to drop, with `*` for any text; case counts."""


def domain_of(address: str) -> str:
    """Return the domain of an e-mail address in its ASCII form and lower case, empty if it has none."""
    _, at, domain = address.strip().rstrip(">").rpartition("@")
    return _ascii(domain) if at else ""


def _ascii(domain: str) -> str:
    domain = domain.strip().rstrip(".").casefold()
    if domain.isascii():
        return domain
    try:
        return domain.encode("idna").decode()
    except UnicodeError:
        return domain


def _domain_matcher(domains: tuple[str, ...]) -> Callable[[str], bool]:
    exact = frozenset(_ascii(domain) for domain in domains if not domain.startswith("*."))
    below = tuple("." + _ascii(domain[2:]) for domain in domains if domain.startswith("*."))
    return lambda domain: domain in exact or domain.endswith(below)


def _name(message: dict[str, Any]) -> str | None:
    """Return the event's name, None for types that have none."""
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in NAMED_TYPES:
        return None
    name = message.get("event") if kind == "track" else message.get("name")
    return name if isinstance(name, str) else ""


def _make_keep_names(settings: EventNamesSettings, _: Tools) -> Change:
    matches = name_matcher(settings.names)

    def keep_event_names(message: dict[str, Any], _: About) -> Result:
        name = _name(message)
        return Kept((message,)) if name is None or matches(name) else _DROPPED

    return keep_event_names


def _make_drop_names(settings: EventNamesSettings, _: Tools) -> Change:
    matches = name_matcher(settings.names)

    def drop_event_names(message: dict[str, Any], _: About) -> Result:
        name = _name(message)
        return _DROPPED if name is not None and matches(name) else Kept((message,))

    return drop_event_names


def _make_domains(settings: EmailDomainSettings, *, allowed: bool) -> Change:
    address_of = first_text(settings.paths)
    matches = _domain_matcher(settings.domains)
    passes_without = settings.missing == "pass"

    def choose_by_domain(message: dict[str, Any], _: About) -> Result:
        address = address_of(message)
        passes = matches(domain_of(address)) is allowed if address else passes_without
        return Kept((message,)) if passes else _DROPPED

    return choose_by_domain


def _make_sample(settings: SampleUsersSettings, _: Tools) -> Change:
    threshold = threshold_of(settings.percent)

    def sample_users(message: dict[str, Any], about: About) -> Result:
        user_id, anonymous_id = id_text(message.get("userId")), id_text(message.get("anonymousId"))
        return Kept((message,)) if in_sample(user_id, anonymous_id, about.message_id, threshold) else _DROPPED

    return sample_users


def _make_drop_bots(settings: DropBotsSettings, _: Tools) -> Change:
    matches = name_matcher(settings.user_agents)

    def drop_bots(message: dict[str, Any], _: About) -> Result:
        if field_at(message, "context.isBot") is True:
            return _DROPPED
        user_agent = field_at(message, "context.userAgent")
        is_bot = isinstance(user_agent, str) and (bool(bot_name(user_agent)) or matches(user_agent))
        return _DROPPED if is_bot else Kept((message,))

    return drop_bots


KEEP_EVENT_NAMES: Final = ReadySpec(
    name="keep_event_names",
    title="Keep events by name",
    text=(
        "Only track, page and screen events with one of these names go on, the others are dropped. Types "
        "without a name (identify, group, alias) always go on."
    ),
    group="choose",
    settings=EventNamesSettings,
    make=_make_keep_names,
    idempotent=True,
)
DROP_EVENT_NAMES: Final = ReadySpec(
    name="drop_event_names",
    title="Drop events by name",
    text=(
        "Drops track, page and screen events with one of these names. Types without a name (identify, group, "
        "alias) always go on."
    ),
    group="choose",
    settings=EventNamesSettings,
    make=_make_drop_names,
    idempotent=True,
)
EMAIL_DOMAIN_ALLOW_LIST: Final = ReadySpec(
    name="email_domain_allow_list",
    title="Keep e-mail domains",
    text=(
        "Only events of users whose e-mail address is in one of these domains go on. An address without a "
        "domain is in none of them. Events without an address go on, unless `missing` says otherwise."
    ),
    group="choose",
    settings=EmailDomainSettings,
    make=lambda settings, _: _make_domains(settings, allowed=True),
    idempotent=True,
)
EMAIL_DOMAIN_DENY_LIST: Final = ReadySpec(
    name="email_domain_deny_list",
    title="Drop e-mail domains",
    text=(
        "Drops events of users whose e-mail address is in one of these domains (your own staff, test "
        "accounts). Events without an address go on, unless `missing` says otherwise."
    ),
    group="choose",
    settings=EmailDomainSettings,
    make=lambda settings, _: _make_domains(settings, allowed=False),
    idempotent=True,
)
SAMPLE_USERS: Final = ReadySpec(
    name="sample_users",
    title="Sample users",
    text=(
        "A share of the users goes on with all their events, always the same ones: the 10 % here are the 10 % "
        "of every other sample, connections' filters included, and part of every 20 %. Counted by userId, "
        "else anonymousId, else messageId; put it before a transformation that hashes ids."
    ),
    group="choose",
    settings=SampleUsersSettings,
    make=_make_sample,
    idempotent=True,
)
DROP_BOTS: Final = ReadySpec(
    name="drop_bots",
    title="Drop bots",
    text=(
        "Drops events of known crawlers, link previews, monitors and browsers without a screen, by "
        "`context.userAgent`, and events marked `context.isBot`. A bot that lies about itself goes on."
    ),
    group="choose",
    settings=DropBotsSettings,
    make=_make_drop_bots,
    idempotent=True,
)
