import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyreqwest.http import Url

from mainstem.delivery.guard import (
    ALLOW_PRIVATE_KEY,
    ALLOWED_NETWORKS_KEY,
    AddressGuard,
    parse_number_host,
)

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "169.253.255.255",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]
PRIVATE = [
    "127.0.0.1",
    "127.255.255.255",
    "10.0.0.0",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.1.1",
    "100.64.0.1",
    "100.127.255.255",
    "::1",
    "fc00::1",
    "fdff::1",
    "fe80::1",
    "fe80::1%eth0",
    "febf::1",
    "fec0::1",
    "64:ff9b:1::808:808",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::10.0.0.1",
    "2002:7f00:1::1",
]
METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "100.100.100.200",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::169.254.169.254",
    "2002:a9fe:a9fe::1",
]
NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "192.0.0.1",
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.255",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "100::1",
    "2001:db8::1",
    "3fff::1",
    "2001::1",
    "2001:10::1",
    "ff02::1",
    "4000::1",
    "5f00::1",
    "::8.8.8.8",
    "::ffff:0:8.8.8.8",
    "::ffff:0.0.0.0",
]


@pytest.mark.parametrize("ip", PUBLIC)
def test_public_addresses_pass(ip: str) -> None:
    assert AddressGuard().check(ip) is None


@pytest.mark.parametrize("ip", PRIVATE)
def test_private_addresses_pass_only_with_the_setting_that_the_reason_names(ip: str) -> None:
    reason = AddressGuard().check(ip)
    assert reason is not None
    assert ALLOW_PRIVATE_KEY in reason
    assert AddressGuard(allow_private=True).check(ip) is None


@pytest.mark.parametrize("ip", METADATA + NEVER)
def test_metadata_and_reserved_addresses_pass_only_when_their_network_is_listed(ip: str) -> None:
    reason = AddressGuard(allow_private=True).check(ip)
    assert reason is not None
    assert ALLOWED_NETWORKS_KEY in reason
    network = str(ipaddress.ip_network(ip))
    assert AddressGuard(allowed=[network]).check(ip) is None


@pytest.mark.parametrize("ip", ["", "localhost", "1.2.3", "01.2.3.4", "::g", "1.2.3.4/8"])
def test_what_is_not_an_address_is_refused(ip: str) -> None:
    assert "not an IP address" in (AddressGuard(allow_private=True).check(ip) or "")


def test_a_listed_network_opens_itself_and_its_carried_forms_only() -> None:
    guard = AddressGuard(allowed=["10.1.0.0/16"])
    assert guard.check("10.1.2.3") is None
    assert guard.check("::ffff:10.1.2.3") is None
    assert guard.check("10.2.0.1") is not None
    assert guard.check("127.0.0.1") is not None


def test_a_malformed_network_in_the_list_is_an_error_that_quotes_it() -> None:
    with pytest.raises(ValueError, match="ten-net"):
        AddressGuard(allowed=["ten-net"])


@given(st.ip_addresses(v=4))
def test_refuses_every_ipv4_address_that_python_calls_not_global(ip: ipaddress.IPv4Address) -> None:
    if not ip.is_global:
        assert AddressGuard().check(ip) is not None


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_never_freer_inside_ipv6(ip: ipaddress.IPv4Address) -> None:
    refused = AddressGuard().check(ip) is not None
    for prefix in ("::ffff:", "64:ff9b::"):
        assert (AddressGuard().check(f"{prefix}{ip}") is not None) == refused
    high, low = int(ip) >> 16, int(ip) & 0xFFFF
    for carried in (f"2002:{high:x}:{low:x}::1", f"::{high:x}:{low:x}", f"::ffff:0:{ip}"):
        assert AddressGuard().check(carried) is not None or not refused


# ---------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook?a=b",
        "http://example.com:8080",
        "https://user:password@example.com/",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
        "https://bücher.example/",
        "https://1.example.com/",
        "https://example.com./",
    ],
)
def test_ordinary_urls_pass(url: str) -> None:
    assert AddressGuard().check_url(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://127.0.0.1./",
        "http://１２７.０.０.１/",
        "http://127。0。0。1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://localhost:9000/",
        "http://LOCALHOST./",
        "http://api.localhost/",
    ],
)
def test_every_spelling_of_this_machine_is_refused_unless_allowed(url: str) -> None:
    assert ALLOW_PRIVATE_KEY in (AddressGuard().check_url(url) or "")
    assert AddressGuard(allow_private=True).check_url(url) is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com/", "scheme is ftp"),
        ("file:///etc/passwd", "scheme is file"),
        ("example.com/hook", "scheme is missing"),
        ("http://", "no host"),
        ("http:///path", "no host"),
        ("http://a b/", "space"),
        (" http://example.com/", "space"),
        ("http://exam\tple.com/", "control"),
        ("http:\\\\127.0.0.1\\", "backslash"),
        ("http://[fe80::1%25eth0]/", "ambiguous"),
        ("http://127.0.0.1%2f@example.com@b/", "ambiguous"),
        ("http://%31%32%37.0.0.1/", "ambiguous"),
        ("http://[::1/", "malformed"),
        ("http://h:99999/", "malformed"),
        ("http://h:x/", "malformed"),
        ("http://1.2.3.4.5/", "not an IPv4 address"),
        ("http://1.2.3.256/", "not an IPv4 address"),
        ("http://09.1.1.1/", "not an IPv4 address"),
        ("http://a.09/", "not an IPv4 address"),
        ("http://0x100000000/", "not an IPv4 address"),
        ("http://0/", "unspecified"),
        ("http://metadata.google.internal/", "metadata"),
        ("http://169.254.169.254/latest/meta-data/", "metadata"),
    ],
)
def test_urls_that_are_refused_say_why(url: str, words: str) -> None:
    reason = AddressGuard(allow_private=True).check_url(url)
    assert reason is not None
    assert words in reason


_number = st.integers(0, 2**33).flatmap(
    lambda value: st.sampled_from((str(value), hex(value), f"0{value:o}", hex(value).upper()))
)
_small = st.integers(0, 300).flatmap(
    lambda value: st.sampled_from((str(value), hex(value), f"0{value:o}", f"00{value}", "0x"))
)


@given(st.lists(st.one_of(_small, _number), min_size=1, max_size=5), st.booleans())
def test_numbers_in_hosts_are_read_as_the_http_client_reads_them(
    parts: list[str], trailing_dot: bool
) -> None:
    host = ".".join(parts) + ("." if trailing_dot else "")
    try:
        theirs = Url(f"http://{host}/").host_str
    except ValueError:
        theirs = None
    ours = parse_number_host(host)
    assert (None if ours is None else str(ours)) == theirs
