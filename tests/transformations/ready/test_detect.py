"""Personal data is found, and told apart from numbers that only look like it."""

import re
import unicodedata
from collections.abc import Sequence

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem.transformations.ready.detect import (
    IBAN_LENGTHS,
    KINDS,
    Finder,
    Pattern,
    iban_valid,
    issued_card,
    luhn,
    pattern_error,
    plain,
)

FINDER = Finder(KINDS, phone_regions=("US",))


def found(text: str, finder: Finder = FINDER) -> list[tuple[str, str, str]]:
    return [(item.kind, text[item.start : item.end], item.normal) for item in finder.find(text)]


@pytest.mark.parametrize(
    ("text", "kind", "part", "normal"),
    [
        ("write to Jane.Doe+news@Mail.Example.co.uk.", "email", "Jane.Doe+news@Mail.Example.co.uk", None),
        ("<o'neil@example.com>", "email", "o'neil@example.com", None),
        ("/?e=jane%40example.com&x=1", "email", "jane%40example.com", "jane@example.com"),
        ("jürgen@müller.de", "email", "jürgen@müller.de", None),
        ("a@xn--e1afmkfd.xn--p1ai", "email", "a@xn--e1afmkfd.xn--p1ai", None),
        ("+493090182000", "phone", "+493090182000", "+493090182000"),
        ("tel:+44 (0)20 7946 0958 x2", "phone", "+44 (0)20 7946 0958", "+442079460958"),
        ("0049 30 901820", "phone", "0049 30 901820", "+4930901820"),
        ("call 212.555.0123 now", "phone", "212.555.0123", "+12125550123"),
        ("1 (212) 555-0123", "phone", "1 (212) 555-0123", "+12125550123"),
        ("+49 30 901820 / 2026-11-23", "phone", "+49 30 901820", "+4930901820"),
        ("4111111111111111", "card", "4111111111111111", None),
        ("x_4111111111111111_y", "card", "4111111111111111", None),
        ("pay 12 4111-1111-1111-1111 02/27", "card", "4111-1111-1111-1111", "4111111111111111"),
        ("3782 822463 10005", "card", "3782 822463 10005", "378282246310005"),
        ("5555.5555.5555.4444", "card", "5555.5555.5555.4444", "5555555555554444"),
        ("6011000990139424", "card", "6011000990139424", None),
        ("3530111333300000", "card", "3530111333300000", None),
        ("30569309025904", "card", "30569309025904", None),
        ("2223003122003222", "card", "2223003122003222", None),
        ("iban DE89 3704 0044 0532 0130 00 and more", "iban", "DE89 3704 0044 0532 0130 00", None),
        ("gb82west12345698765432", "iban", "gb82west12345698765432", "GB82WEST12345698765432"),
        ("NO93-8601-1117-947", "iban", "NO93-8601-1117-947", "NO9386011117947"),
        ("from 203.0.113.77:443", "ip", "203.0.113.77", "203.0.113.77"),
        ("http://203.0.113.77/x", "ip", "203.0.113.77", None),
        ("seen at 203.0.113.77.", "ip", "203.0.113.77", None),
        ("[2001:DB8::1]:443", "ip", "2001:DB8::1", "2001:db8::1"),
        ("fe80::1:2%eth0", "ip", "fe80::1:2", None),
        ("2001:db8:85a3:8d3:1319:8a2e:370:7348", "ip", "2001:db8:85a3:8d3:1319:8a2e:370:7348", None),
        ("::ffff:203.0.113.77", "ip", "::ffff:203.0.113.77", None),
        ("ssn: 078-05-1120", "ssn", "078-05-1120", "078051120"),
        ("078 05 1120", "ssn", "078 05 1120", "078051120"),
    ],
)
def test_found(text: str, kind: str, part: str, normal: str | None) -> None:
    [(its_kind, its_part, its_normal)] = found(text)
    assert (its_kind, its_part) == (kind, part)
    assert normal is None or its_normal == normal
    assert list(FINDER.suspects(["nothing", text, "nothing"])) == [1]


@pytest.mark.parametrize(
    "text",
    [
        "@handle",
        "a@b",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Chrome/120.0.0.0 Safari/537.36",
        "Chrome/49.0.2623.112",
        "2026-11-23",
        "2026-11-23T09:34:29.123+01:00",
        "2026-11-23 09:34:29",
        "1790000000000",
        "9b8d3d6e-1234-4567-8901-123456789012",
        "507f1f77bcf86cd799439011",
        "4111111111111112",
        "41111111111111111111111",
        "1234567890123452",
        "DE88 3704 0044 0532 0130 00",
        "DE89 3704 0044 0532 0130",
        "256.1.1.1",
        "1.2.3.4.5",
        "std::vector<int>",
        "09:34:29",
        "aa:bb:cc:dd:ee:ff",
        "::1",
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "123-45-0000",
        "2125550123",
        "+1 2",
        "112-555-0123",
        "",
    ],
)
def test_not_found(text: str) -> None:
    assert found(text) == []


def test_numbers_of_other_countries_when_asked() -> None:
    german = Finder(["phone"], phone_regions=("DE", "FR"))
    assert found("030 901820 anrufen", german) == [("phone", "030 901820", "+4930901820")]
    assert found("01 42 68 53 00", german)[0][0] == "phone"
    for text in ("23.11.2026", "2026-11-23", "192.168.10.100", "030901820"):
        assert found(text, german) == []


def test_several_in_one_text_in_order() -> None:
    text = "jane@example.com, 203.0.113.77; +49 30 901820 / 078-05-1120 / 4111 1111 1111 1111"
    assert [kind for kind, _, _ in found(text)] == ["email", "ip", "phone", "ssn", "card"]


@pytest.mark.parametrize("between", [" ", ", ", " / ", "; ", "\n", " und "])
def test_none_hides_the_next(between: str) -> None:
    one_each = (
        *("jane@example.com", "203.0.113.77", "2001:db8::17", "078-05-1120", "4111 1111 1111 1111"),
        *("DE89 3704 0044 0532 0130 00", "NO93 8601 1117 947", "+49 30 901820", "0049 30 901820"),
        *("030 901820", "(212) 555-0123"),
    )
    finder = Finder(KINDS, phone_regions=("US", "DE"))
    for first in one_each:
        for second in one_each:
            text = between.join([first, second, second, first])
            hidden = list(text)
            for item in finder.find(text):
                hidden[item.start : item.end] = "*" * (item.end - item.start)
            rest = "".join(hidden).replace(between, "").replace("*", "").strip("+( ")
            assert not re.search(r"\w", rest), (text, rest)


def test_what_overlaps_is_one_find() -> None:
    finder = Finder(["email"], patterns=[Pattern("word", r"to jane\w*")])
    assert found("to jane@example.com", finder) == [
        ("email", "to jane@example.com", "to jane@example.com"),
    ]


def test_only_what_is_asked_for() -> None:
    text = "jane@example.com 203.0.113.77 078-05-1120 4111 1111 1111 1111 DE89 3704 0044 0532 0130 00 +49 30 901820"
    for kind in KINDS:
        assert {its_kind for its_kind, _, _ in found(text, Finder([kind]))} == {kind}


# ---------------------------------------------------------------- other scripts


def test_every_digit_of_unicode_is_a_digit() -> None:
    digits = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Nd" and code > 127]
    if unicodedata.unidata_version.startswith("14."):
        assert all(plain(digit) == str(unicodedata.decimal(digit)) for digit in digits)
    assert plain("٤١١") == "411"


@given(st.text())
def test_the_text_that_is_searched_has_the_same_length(text: str) -> None:
    assert len(plain(text)) == len(text)


@pytest.mark.parametrize("between", ["\u200b", "\u00a0", "\u2011", "\u2009", "\u00ad", "\u2060"])
def test_what_is_between_digits_hides_nothing(between: str) -> None:
    text = between.join(["4111", "1111", "1111", "1111"])
    assert [part for _, part, _ in found(f"Karte: {text}.")] == [text]
    assert list(FINDER.suspects(["é", text])) == [1]


def test_lone_surrogates_do_not_hurt() -> None:
    assert [part for _, part, _ in found("\ud800 jane@example.com \udfff")] == ["jane@example.com"]
    assert list(FINDER.suspects(["\ud800", "\0", "a\0b", "jane@example.com"])) == [3]


# ---------------------------------------------------------------- arithmetic


def reference_luhn(digits: str) -> bool:
    total = 0
    for place, char in enumerate(reversed(digits)):
        digit = int(char) * (1 + place % 2)
        total += digit - 9 if digit > 9 else digit
    return total % 10 == 0


@given(st.text("0123456789", min_size=1, max_size=30))
def test_luhn(digits: str) -> None:
    assert luhn(digits) == reference_luhn(digits)


@given(st.sampled_from(sorted(IBAN_LENGTHS)), st.data())
def test_an_iban_with_its_check_digits_is_one_and_with_others_none(country: str, data: st.DataObject) -> None:
    length = IBAN_LENGTHS[country] - 4
    account = data.draw(st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=length, max_size=length))
    remainder = int("".join(str(int(char, 36)) for char in f"{account}{country}00")) % 97
    right = 98 - remainder
    assert iban_valid(f"{country}{right:02}{account}")
    assert not iban_valid(f"{country}{right % 97 + 1:02}{account}") or right == right % 97 + 1
    assert found(f"{country}{right:02}{account}", Finder(["iban"]))


def test_cards_need_an_issuer() -> None:
    assert luhn("1234567890123452")
    assert not issued_card("1234567890123452")
    assert not issued_card("4111111111111")


# ---------------------------------------------------------------- the quick look and time


@given(st.lists(st.text(st.sampled_from("0123456789 +-.()@:/aDEé%\0\u200b٤"), max_size=40), max_size=6))
def test_the_quick_look_misses_nothing(texts: Sequence[str]) -> None:
    suspects = set(FINDER.suspects(texts))
    assert {index for index, text in enumerate(texts) if FINDER.find(text)} <= suspects


@pytest.mark.parametrize(
    "part",
    ["4", "44 ", "444-", "+1234567 ", "a@", "a.", "1.1.1.1.", "::1:", "DE89 ", "(212) 555-", "%40", "00 49 "],
)
def test_a_text_made_to_take_long_ends(part: str) -> None:
    # A search that backtracks would not end within the test's time limit.
    Finder(KINDS, phone_regions=("US", "DE", "FR")).find(part * (32_768 // len(part)))


def test_patterns_of_the_users_own() -> None:
    assert pattern_error("(a+)+$") == ""
    assert "missing" in pattern_error("(a")
    assert pattern_error(r"(?=a)") != ""
    assert pattern_error("a*") == "matches the empty text"
    finder = Finder([], patterns=[Pattern("ref", r"\bC-\d{4}\b"), Pattern("é", "é+")])
    assert found("éé C-1234", finder) == [("é", "éé", "éé"), ("ref", "C-1234", "C-1234")]
    assert list(finder.suspects(["a", "b"])) == [0, 1]


@pytest.mark.parametrize("region", ["US", "DE", "GB", "FR", "IN", "BR", "JP"])
def test_example_numbers_of_libphonenumber_are_found(region: str) -> None:
    number = phonenumbers.example_number(region)
    assert number is not None
    for form in (phonenumbers.PhoneNumberFormat.E164, phonenumbers.PhoneNumberFormat.INTERNATIONAL):
        text = phonenumbers.format_number(number, form)
        assert [kind for kind, _, _ in found(f"call {text}!")] == ["phone"]
    national = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    if re.search(r"\d\D+\d", national):
        assert found(f"call {national}!", Finder(["phone"], phone_regions=(region,)))[0][0] == "phone"
