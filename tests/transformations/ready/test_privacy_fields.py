"""`remove_fields`, `mask_fields`, `hash_fields`, `truncate_ip`, and edge policies beside the message."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem.transformations.base import About, Change, Dropped, Failed, Kept
from mainstem.transformations.ready.base import NO_TOOLS
from mainstem.transformations.ready.catalog import find_spec, validate_settings
from mainstem.transformations.ready.edge import Arrived, apply_at_edge, text_at_edge
from mainstem.transformations.ready.leaves import number_text
from mainstem.transformations.ready.truncate_ip import truncated

ABOUT = About(source_id="web", message_id="m", ordering_key="web:u:1", received_at_ms=0)
SALT = "0123456789abcdef"


def change(name: str, **settings: Any) -> Change:
    spec, checked = find_spec(name), validate_settings(name, settings)
    assert spec is not None
    assert checked.errors == ()
    return spec.make(checked.config, NO_TOOLS)


@pytest.mark.parametrize(
    ("name", "raw", "setting", "words"),
    [
        ("remove_fields", {}, "paths", "required"),
        ("remove_fields", {"paths": []}, "paths", "nothing would be removed"),
        ("remove_fields", {"paths": ["messageId"]}, "paths", "can't be removed"),
        ("remove_fields", {"paths": ["$"]}, "paths", "whole event"),
        ("mask_fields", {"paths": []}, "paths", "nothing would be changed"),
        ("mask_fields", {"paths": ["type"]}, "paths", "can't be changed"),
        ("mask_fields", {"paths": ["a", "a.b"]}, "paths", "lies within `a`"),
        ("mask_fields", {"paths": ["a[0].b", "a[*]"]}, "paths", "lies within `a[*]`"),
        ("mask_fields", {"paths": ["a"], "mask_text": "x", "keep_last": 1}, "keep_last", "no meaning"),
        ("hash_fields", {"paths": ["a"]}, "salt", "is missing"),
        ("hash_fields", {"paths": ["a"], "salt": SALT, "algorithm": "sha256"}, "salt", "no meaning"),
        ("hash_fields", {"paths": ["a"], "salt": SALT, "algorithm": "md5"}, "algorithm", "sha256"),
        ("truncate_ip", {"paths": []}, "paths", "no address"),
        ("truncate_ip", {"keep_v4_bits": 33}, "keep_v4_bits", "<= 32"),
    ],
)
def test_wrong_settings(name: str, raw: dict[str, Any], setting: str, words: str) -> None:
    checked = validate_settings(name, raw)
    assert checked.config is None
    assert any(path == setting and words in text for path, text in checked.errors)


def test_a_short_salt_is_a_warning() -> None:
    assert validate_settings("hash_fields", {"paths": ["a"], "salt": "x"}).warnings[0][0] == "salt"


def test_paths_side_by_side_are_allowed() -> None:
    assert change("mask_fields", paths=["a[0].b", "a[1].b", "a[*].c"])(
        {"a": [{"b": "x", "c": "y"}, {"b": "z"}]}, ABOUT
    ) == Kept(({"a": [{"b": "*", "c": "*"}, {"b": "*"}]},))


def test_short_texts_keep_nothing() -> None:
    masked = change("mask_fields", paths=["a"], keep_last=4)
    assert masked({"a": ["12345678", "123456789"]}, ABOUT) == Kept(({"a": ["********", "*****6789"]},))


def test_numbers_as_they_are_written() -> None:
    assert [number_text(value) for value in (1, -5, 2.0, 2.5, 1e300)] == ["1", "-5", "2", "2.5", "1e+300"]
    assert number_text(10**5000).startswith("0x")


@given(st.ip_addresses(), st.integers(0, 32), st.integers(0, 128))
def test_truncated_addresses_are_the_network(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, v4: int, v6: int
) -> None:
    text = truncated(str(address), v4, v6)
    assert truncated(text, v4, v6) == text
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    bits = v4 if address.version == 4 else v6
    network = ipaddress.ip_network((address, bits), strict=False)
    assert ipaddress.ip_address(text) == network.network_address


# ---------------------------------------------------------------- at the edge


def test_what_lies_beside_the_message_goes_the_same_way() -> None:
    policies = [
        change("truncate_ip"),
        change("remove_fields", paths=["context.userAgent", "context.device"]),
        change("mask_pii", exclude=["request_ip", "context.ip"]),
    ]
    arrived = Arrived(
        message={"type": "track", "context": {"ip": "203.0.113.77"}, "properties": {"x": "jane@example.com"}},
        request_ip="203.0.113.77",
        user_agent="Mozilla/5.0",
        batch_context={"device": {"id": "d"}, "traits": {"email": "jane@example.com"}},
    )
    before = repr(arrived)
    assert apply_at_edge(policies, arrived, ABOUT) == Arrived(
        message={"type": "track", "context": {"ip": "203.0.113.0"}, "properties": {"x": "****@*******.***"}},
        request_ip="203.0.113.0",
        user_agent="",
        batch_context={"traits": {"email": "****@*******.***"}},
    )
    assert repr(arrived) == before


def test_what_is_not_there_stays_so() -> None:
    arrived = Arrived(message={"type": "track"})
    assert apply_at_edge([change("mask_pii")], arrived, ABOUT) == arrived


def test_a_part_that_a_policy_fails_on_is_not_stored() -> None:
    def strict(message: dict[str, Any], about: About) -> Kept | Dropped:
        return Kept((message,)) if "type" in message else Dropped()

    arrived = Arrived(message={"type": "track"}, request_ip="203.0.113.77", batch_context={"a": 1})
    assert apply_at_edge([strict], arrived, ABOUT) == Arrived(message={"type": "track"}, batch_context={})
    assert apply_at_edge([strict], Arrived(message={}), ABOUT) == Dropped()


def test_several_events_of_one_are_refused() -> None:
    def twice(message: dict[str, Any], about: About) -> Kept:
        return Kept((message, message))

    assert isinstance(apply_at_edge([twice], Arrived(message={}), ABOUT), Failed)


def test_texts_pass_every_policy() -> None:
    assert text_at_edge([str.upper, str.strip], " why ") == "WHY"
