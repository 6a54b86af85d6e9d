"""`truncate_ip`: IP addresses as networks. A ready-made transformation (privacy), also at the edge."""

import ipaddress
from typing import Annotated, Any, Final

import msgspec

from mainstem.destinations.kit.paths import Json, parse_path
from mainstem.transformations.base import About, Change, Kept, Result
from mainstem.transformations.ready.base import ReadySpec, TextChange, Tools
from mainstem.transformations.ready.edit import check_path, compile_edit


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `truncate_ip` is told."""

    paths: tuple[str, ...] = ("context.ip", "request_ip", "context.geo.ip")
    """Where addresses are. A field that holds anything else stays; `mask_pii` finds addresses within texts."""
    keep_v4_bits: Annotated[int, msgspec.Meta(ge=0, le=32)] = 24
    """How many bits of an IPv4 address stay; the others become 0: 24 makes 203.0.113.77 to 203.0.113.0."""
    keep_v6_bits: Annotated[int, msgspec.Meta(ge=0, le=128)] = 48
    """How many bits of an IPv6 address stay. 48 is what one organisation or one home has at most."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("`paths` is empty: no address would be truncated")
        for path in self.paths:
            check_path("paths", path)
            if parse_path(path)[0] in ("type", "messageId"):
                raise ValueError(f"`paths`: `{path}` makes the event what it is; it can't be changed")


def truncated(text: str, keep_v4_bits: int, keep_v6_bits: int) -> str:
    """Return an address with its last bits 0, in the usual way to write it; the very text if it is no address."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return text
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        # ::ffff:203.0.113.77 is an IPv4 address: 48 bits of it would tell nothing, 120 everything.
        address = address.ipv4_mapped
    keep = keep_v4_bits if address.version == 4 else keep_v6_bits
    drop = address.max_prefixlen - keep
    # A zone (fe80::1%eth0) is of one machine; made of the number, the address has none.
    return str(type(address)(int(address) >> drop << drop))


def make(settings: Settings, _: Tools) -> Change:
    """Return the change for these settings."""
    edits = [compile_edit(path) for path in settings.paths]
    shorten = make_text(settings)

    def update(value: Json) -> Json:
        return shorten(value) if isinstance(value, str) else value

    def truncate_ip(message: dict[str, Any], about: About) -> Result:
        for edit in edits:
            message = edit(message, update)
        return Kept((message,))

    return truncate_ip


def make_text(settings: Settings) -> TextChange:
    """Return the same for a loose text that is an address."""
    keep_v4, keep_v6 = settings.keep_v4_bits, settings.keep_v6_bits
    return lambda text: truncated(text, keep_v4, keep_v6)


SPEC: Final = ReadySpec(
    name="truncate_ip",
    title="Cut IP addresses down to their network",
    text="""Sets the last bits of IP addresses to 0, so that they still tell a country and often a town, but no
    household. At the edge the address that the request came from is cut too, so a geo lookup later sees the network
    only.""",
    group="privacy",
    settings=Settings,
    make=make,
    make_text=make_text,
    edge=True,
    idempotent=True,
)
