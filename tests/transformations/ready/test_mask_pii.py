"""`mask_pii`: what its settings mean, beyond the cases."""

import hashlib
import hmac
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem.secret import Secret
from mainstem.transformations.base import About, Kept
from mainstem.transformations.ready.catalog import validate_settings
from mainstem.transformations.ready.detect import KINDS, Finder, iban_valid, luhn
from mainstem.transformations.ready.disguise import token
from mainstem.transformations.ready.mask_pii import SPEC, Settings, make

ABOUT = About(source_id="web", message_id="m", ordering_key="web:u:1", received_at_ms=0)
SALT = "0123456789abcdef"


def masked(message: dict[str, Any], **settings: Any) -> dict[str, Any]:
    checked = validate_settings("mask_pii", settings)
    assert checked.errors == ()
    result = SPEC.make(checked.config, None)(message, ABOUT)  # type: ignore[arg-type]
    assert isinstance(result, Kept)
    [out] = result.messages
    return out


def test_an_event_without_personal_data_is_the_very_same_object() -> None:
    message = {"type": "track", "properties": {"a": ["b", {"c": 1}]}, "messageId": "4111111111111111"}
    assert masked(message) is message


def test_what_is_found_does_not_stay_in_what_is_remembered() -> None:
    change = make(Settings(), None)  # type: ignore[arg-type]
    change({"properties": {"x": "jane@example.com", "jane@example.com": 1, "url": "/a-1234567"}}, ABOUT)
    masker = change.__self__  # type: ignore[attr-defined]
    assert "jane@example.com" not in repr((masker._clean, masker._rules))
    assert "/a-1234567" in masker._clean


def test_hashes_are_of_the_normal_form() -> None:
    out = masked(
        {"p": {"a": "JANE@example.com", "b": "(212) 555-0123", "c": 4111111111111111, "password": " x "}},
        how="hash",
        salt=SALT,
    )["p"]

    def expected(text: str) -> str:
        return hmac.new(SALT.encode(), text.encode(), hashlib.sha256).hexdigest()

    assert out == {
        "a": expected("jane@example.com"),
        "b": expected("+12125550123"),
        "c": expected("4111111111111111"),
        "password": expected("x"),
    }


@pytest.mark.parametrize("key", ["phone", "Phone-Number", "MOBILE", "mobile phone", "ｐｈｏｎｅ"])
def test_keys_are_known_however_they_are_written(key: str) -> None:
    expected = key != "ｐｈｏｎｅ"  # only digits and signs of other forms are read as ASCII
    assert (masked({"traits": {key: 2125550123}}) == {"traits": {key: "**********"}}) is expected


def test_below_a_known_key_everything_is_masked() -> None:
    message = {"traits": {"email": {"work": "none", "all": ["x", 5, 1.5, True, None, "", [{"k": "deep"}]]}}}
    assert masked(message) == {
        "traits": {"email": {"work": "****", "all": ["*", "*", "*.*", True, None, "", [{"k": "****"}]]}}
    }


def test_known_keys_follow_what_is_looked_for() -> None:
    message = {"traits": {"email": "none", "password": "x"}}
    assert masked(message, find=["card"]) == {"traits": {"email": "none", "password": "*"}}
    assert masked(message, known_keys=False) == message


def test_a_token_below_a_known_key_is_of_its_form_if_the_value_is() -> None:
    out = masked(
        {"t": {"phone": "2125550123", "email": "?"}, "p": "+1 212 555 0123"}, how="tokenise", salt=SALT
    )
    assert out["t"]["phone"] == out["p"]
    assert out["t"]["email"] == token(SALT.encode(), "key", "?")


def test_masked_keys_never_hide_one_another() -> None:
    message = {"p": {"a@b.cc": 1, "x@y.zz": 2, "*@*.**": 3, "p@q.rr": 4}}
    out = masked(message)["p"]
    assert sorted(out.values()) == [1, 2, 3, 4]
    assert out["*@*.**"] == 3
    assert "a@b.cc" not in repr(out)
    assert masked(message, search_keys=False) == message


def test_removing() -> None:
    message = {
        "p": {"e": " jane@example.com ", "n": [1, 4111111111111111, ["a@b.cc"]], "jane@example.com": {}}
    }
    assert masked(message, how="remove") == {"p": {"n": [1, []]}}


def test_the_longest_path_decides() -> None:
    message = {"a": {"b": [{"c": "a@b.cc", "d": "a@b.cc"}, {"c": "a@b.cc", "d": "a@b.cc"}]}, "e": "a@b.cc"}
    star = "*@*.**"
    assert masked(message, exclude=["a"], include=["a.b[*].c"]) == {
        "a": {"b": [{"c": star, "d": "a@b.cc"}, {"c": star, "d": "a@b.cc"}]},
        "e": "a@b.cc",
    }
    assert masked(message, exclude=["a.b[0]", "a.b[*].c"]) == {
        "a": {"b": [{"c": "a@b.cc", "d": "a@b.cc"}, {"c": "a@b.cc", "d": star}]},
        "e": star,
    }


def test_ids_are_searched_when_named() -> None:
    message = {"userId": "a@b.cc", "anonymousId": "a@b.cc", "messageId": "a@b.cc"}
    assert masked(message, include=["userId"]) == {**message, "userId": "*@*.**"}
    assert masked(message, include=["messageId"]) == message


def test_versions_are_no_addresses() -> None:
    message = {"app": {"version": "4.1.0.2", "osVersion": "10.0.0.1", "other": "4.1.0.2"}}
    assert masked(message) == {"app": {"version": "4.1.0.2", "osVersion": "10.0.0.1", "other": "*.*.*.*"}}
    assert masked({"version": "mail a@b.cc"}) == {"version": "mail *@*.**"}


def test_numbers() -> None:
    message = {
        "p": [4111111111111111, 4111111111111111.0, -4111111111111111, 10**200, 1.5, float("inf"), True]
    }
    assert masked(message) == {"p": ["*" * 16, "*" * 16, -4111111111111111, 10**200, 1.5, float("inf"), True]}


def test_patterns_look_at_every_text() -> None:
    settings = {"find": [], "patterns": [{"name": "name", "pattern": "(?i)jane"}], "how": "remove"}
    assert masked({"p": {"a": "Jane", "b": "o Jane", "c": ["jane"], "Jane": 1}}, **settings) == {
        "p": {"b": "o ", "c": []}
    }


@pytest.mark.parametrize(
    ("raw", "setting", "words"),
    [
        ({"find": ["names"]}, "find", ""),
        ({"how": "hash"}, "salt", "is missing"),
        ({"how_by_kind": {"ip": "tokenise"}}, "salt", "is missing"),
        ({"how_by_kind": {"name": "mask"}}, "how_by_kind", "no kind `name`"),
        ({"patterns": [{"name": "x", "pattern": "(a"}]}, "patterns[0].pattern", "missing"),
        ({"patterns": [{"name": "x", "pattern": "a*"}]}, "patterns[0].pattern", "empty text"),
        ({"patterns": [{"name": "x", "pattern": "a" * 1001}]}, "patterns[0].pattern", "longer"),
        ({"patterns": [{"name": "ip", "pattern": "a"}]}, "patterns[0].name", "already"),
        ({"patterns": [{"name": "x", "patern": "a"}]}, "patterns", "patern"),
        ({"phone_regions": ["XX"]}, "phone_regions", "no country `XX`"),
        ({"include": ["$"]}, "include", "whole event"),
        ({"exclude": ["a..b"]}, "exclude", "no path"),
        ({"keep_last": 5}, "keep_last", "<= 4"),
        ({"exlude": ["a"]}, "exlude", "did you mean `exclude`"),
    ],
)
def test_wrong_settings(raw: dict[str, Any], setting: str, words: str) -> None:
    checked = validate_settings("mask_pii", raw)
    assert checked.config is None
    [(path, text)] = checked.errors
    assert path.startswith(setting)
    assert words in text


def test_warnings() -> None:
    assert validate_settings("mask_pii", {"salt": "short", "how": "hash"}).warnings[0][0] == "salt"
    assert validate_settings("mask_pii", {"ids": True}).warnings[0][0] == "ids"
    assert validate_settings("mask_pii", {"salt": Secret(SALT), "how": "hash", "ids": True}).warnings == ()
    assert SPEC.secret_fields == {"salt"}


# ---------------------------------------------------------------- tokens


@given(st.binary(min_size=1, max_size=40), st.text(max_size=20))
def test_tokens_belong_to_nobody(salt: bytes, text: str) -> None:
    card = token(salt, "card", "4111111111111111")
    assert len(card) == 16
    assert not luhn(card)
    iban = token(salt, "iban", "DE89370400440532013000")
    assert len(iban) == 22
    assert not iban_valid(iban)
    phone = token(salt, "phone", text)
    assert phone.startswith("+999")
    assert len(phone) == 14
    assert ipaddress.ip_address(token(salt, "ip", "203.0.113.7")).is_reserved
    assert ipaddress.ip_address(token(salt, "ip", "2001:db8::1")) in ipaddress.ip_network("2001:db8::/32")
    assert Finder(["ssn", "card", "iban"]).find(f"{token(salt, 'ssn', text)} {card} {iban}") == []
    assert token(salt, "email", text).endswith("@token.invalid")
    assert token(salt, "email", text) == token(salt, "email", text) != token(salt + b"x", "email", text)


PII = (
    *(
        "jane@example.com",
        "4111 1111 1111 1111",
        "+49 30 901820",
        "203.0.113.77",
        "2001:db8::17",
        "078-05-1120",
    ),
    "DE89 3704 0044 0532 0130 00",
)


@given(st.lists(st.one_of(st.sampled_from(PII), st.text(max_size=8)), max_size=6), st.integers(0, 4))
def test_what_is_masked_is_not_found_again(parts: list[str], keep_last: int) -> None:
    text = " ".join(parts)
    out = masked({"p": text}, keep_last=keep_last).get("p", "")
    for item in PII:
        assert item not in out
    if keep_last == 0:
        assert Finder(KINDS, phone_regions=("US",)).find(out) == []


@pytest.mark.parametrize("how", ["mask", "remove", "hash", "tokenise"])
def test_loose_texts(how: str) -> None:
    checked = validate_settings("mask_pii", {"how": how, "salt": SALT})
    assert SPEC.make_text is not None
    change = SPEC.make_text(checked.config)
    assert change("") == ""
    assert change("nothing") == "nothing"
    for item in PII:
        assert item not in change(f"`properties.x`: {item} is no number")
        assert item not in change(item)
