"""Which addresses Mainstem may send to: the guard against server-side request forgery. Pure, no I/O.

A destination's URL is typed by a person or built from an event, so it may point at the machines around
us. `delivery.transport` asks this guard about every address before it connects; configuration asks
`check_url` early, so that the mistake shows before the first event.

Ranges: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and successors), written out
because `ipaddress.is_private` changed meaning between Python releases. Numbers in host names follow the
WHATWG URL standard, as the HTTP client reads them. Advice: OWASP SSRF Prevention Cheat Sheet.
"""

import ipaddress
import unicodedata
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urlsplit

ALLOW_PRIVATE_KEY = "MAINSTEM_ALLOW_PRIVATE_DESTINATIONS"
ALLOWED_NETWORKS_KEY = "MAINSTEM_ALLOWED_DESTINATION_NETWORKS"

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network


def _table(*rows: tuple[str, str]) -> tuple[tuple[_Network, str], ...]:
    return tuple((ipaddress.ip_network(network), reason) for network, reason in rows)


# Serve credentials to whoever asks from the same machine. `allow_private` is set for a webhook in the next
# rack, not for these: only a network named in the allow-list opens them.
_METADATA = _table(
    ("169.254.169.254/32", "a cloud metadata service"),
    ("169.254.170.2/32", "a cloud metadata service (ECS task credentials)"),
    ("169.254.170.23/32", "a cloud metadata service (EKS pod identity)"),
    ("100.100.100.200/32", "a cloud metadata service (Alibaba)"),
    ("168.63.129.16/32", "a cloud metadata service (Azure platform)"),
    ("fd00:ec2::254/128", "a cloud metadata service"),
    ("fd00:ec2::23/128", "a cloud metadata service (EKS pod identity)"),
    ("fd20:ce::254/128", "a cloud metadata service (Google)"),
)

_PRIVATE = _table(
    ("127.0.0.0/8", "loopback"),
    ("10.0.0.0/8", "a private network (RFC 1918)"),
    ("172.16.0.0/12", "a private network (RFC 1918)"),
    ("192.168.0.0/16", "a private network (RFC 1918)"),
    ("169.254.0.0/16", "link-local"),
    ("100.64.0.0/10", "shared carrier space (RFC 6598)"),
    ("::1/128", "loopback"),
    ("fc00::/7", "a private network (unique local, RFC 4193)"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local (deprecated)"),
    ("64:ff9b:1::/48", "a local translation prefix (RFC 8215)"),
)

_NEVER = _table(
    ("0.0.0.0/8", "unspecified: it means this machine"),
    ("192.0.0.0/24", "reserved for protocols (RFC 6890)"),
    ("192.0.2.0/24", "for documentation"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("192.88.99.0/24", "reserved (6to4 relay, RFC 7526)"),
    ("198.18.0.0/15", "for benchmarks (RFC 2544)"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "unspecified: it means this machine"),
    ("100::/64", "discard-only (RFC 6666)"),
    ("2001:db8::/32", "for documentation"),
    ("3fff::/20", "for documentation"),
    ("2001::/23", "reserved for protocols (Teredo and others, RFC 2928)"),
    ("ff00::/8", "multicast"),
)

_GLOBAL_UNICAST = IPv6Network("2000::/3")

# Where packets to a carried IPv4 address really end up at it, so that its own rules are the only ones.
_TRANSLATED = (
    IPv6Network("::ffff:0:0/96"),  # IPv4-mapped, RFC 4291
    IPv6Network("64:ff9b::/96"),  # NAT64, RFC 6052
)

# Prefixes that carry an IPv4 address, and how far its last bit stands from the right end.
_CARRIERS = (
    *((prefix, 0) for prefix in _TRANSLATED),
    (IPv6Network("64:ff9b:1::/48"), 0),  # local NAT64, RFC 8215, in its usual /96 form
    (IPv6Network("::ffff:0:0:0/96"), 0),  # IPv4-translated, RFC 7915
    (IPv6Network("::/96"), 0),  # IPv4-compatible (deprecated), RFC 4291
    (IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056
)


def _carried(address: _Address) -> IPv4Address | None:
    if isinstance(address, IPv6Address) and int(address) > 1:  # :: and ::1 carry nothing
        for prefix, shift in _CARRIERS:
            if address in prefix:
                return IPv4Address((int(address) >> shift) & 0xFFFF_FFFF)
    return None


def _find(table: tuple[tuple[_Network, str], ...], address: _Address) -> str | None:
    return next((reason for network, reason in table if address in network), None)


class AddressGuard:
    """Says no to addresses that are not the public internet."""

    def __init__(self, *, allow_private: bool = False, allowed: Iterable[str] = ()) -> None:
        """Make a guard.

        Args:
            allow_private: let loopback, private, link-local and carrier ranges through; metadata
                services, multicast, documentation and reserved ranges stay refused.
            allowed: networks in CIDR notation that are let through whatever they are.

        Raises:
            ValueError: an entry of `allowed` is not a network; the text quotes it.
        """
        self._allow_private = allow_private
        self._allowed = tuple(ipaddress.ip_network(network) for network in allowed)

    def check(self, ip: str | _Address) -> str | None:
        """Return None if `ip` may be connected to, otherwise the reason, naming the setting that allows it."""
        if isinstance(ip, str):
            try:
                # A zone ("fe80::1%eth0") chooses an interface, not another address.
                address: _Address = ipaddress.ip_address(ip.partition("%")[0])
            except ValueError:
                return f"{ip} is not an IP address"
        else:
            address = ip
        inner = _carried(address)
        if any(address in network or (inner and inner in network) for network in self._allowed):
            return None
        if inner is not None:
            if inside := self._judge(inner):
                return f"{address} carries {inner}, which is {inside}"
            if any(address in prefix for prefix in _TRANSLATED):
                return None
        reason = self._judge(address)
        return f"{address} is {reason}" if reason else None

    def _judge(self, address: _Address) -> str | None:
        only_named = f"; only a network listed in {ALLOWED_NETWORKS_KEY} allows it"
        if reason := _find(_METADATA, address):
            return reason + only_named
        if reason := _find(_PRIVATE, address):
            return None if self._allow_private else f"{reason}; {ALLOW_PRIVATE_KEY}=true allows it"
        if reason := _find(_NEVER, address):
            return reason + only_named
        if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
            return "reserved" + only_named
        return None

    def check_url(self, url: str) -> str | None:
        """Check a configured URL without a lookup: its shape, its scheme, and its host if that is a number.

        Stricter than the HTTP client's parser on purpose: what two parsers may read differently is
        refused. A host name that resolves to a forbidden address is caught when it is connected to.

        Returns:
            None if nothing speaks against it, otherwise the reason.
        """
        if any(char <= " " or char in "\\\x7f" for char in url):
            return "the URL holds a space, a control character or a backslash"
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            return f"the URL is malformed: {error}"
        if parts.scheme not in ("http", "https"):
            return f"the URL's scheme is {parts.scheme or 'missing'}; only http and https are sent to"
        if not host:
            return "the URL has no host"
        if parts.netloc.count("@") > 1 or "%" in host:
            return "the URL's host is ambiguous: it holds % or a second @"
        host = unicodedata.normalize("NFKC", host).replace("\u3002", ".").removesuffix(".").lower()
        if ":" in host:
            return self.check(host)
        if host == "localhost" or host.endswith(".localhost"):
            return self._named(host, "127.0.0.1")
        if host == "metadata.google.internal":
            return self._named(host, "169.254.169.254")
        if _ends_in_number(host):
            number = parse_number_host(host)
            if number is None:
                return f"{host} is not an IPv4 address"
            return self.check(number)
        return None

    def _named(self, host: str, ip: str) -> str | None:
        reason = self.check(ip)
        return None if reason is None else f"{host} means {reason}"


def _ends_in_number(host: str) -> bool:
    last = host.rpartition(".")[2]
    return _part_value(last) is not None or (last.isascii() and last.isdigit())


def _part_value(part: str) -> int | None:
    """Read one dotted part as C's inet_aton does: 0x hexadecimal, leading 0 octal, else decimal."""
    base, digits = 10, part
    if part[:2] in ("0x", "0X"):
        base, digits = 16, part[2:]
    elif len(part) > 1 and part[0] == "0":
        base, digits = 8, part[1:]
    if digits == "" and base != 10:
        return 0
    allowed = {8: "01234567", 10: "0123456789", 16: "0123456789abcdefABCDEF"}[base]
    return int(digits, base) if digits and all(char in allowed for char in digits) else None


def parse_number_host(host: str) -> IPv4Address | None:
    """Read a host of one to four numbers (`127.1`, `0x7f.1`, `2130706433`) as URL parsers do, or None.

    https://url.spec.whatwg.org/#concept-ipv4-parser
    """
    values = [_part_value(part) for part in host.removesuffix(".").split(".")]
    if not 1 <= len(values) <= 4:
        return None
    total = 0
    for position, value in enumerate(values):
        if value is None:
            return None
        last = position == len(values) - 1
        if value >= (256 ** (5 - len(values)) if last else 256):
            return None
        total += value if last else value << (8 * (3 - position))
    return IPv4Address(total)
