"""Finds personal data in text: e-mail addresses, phone numbers, cards, IBANs, IP addresses, US social security numbers.

Part of `mask_pii`. Patterns run on RE2, so time grows with the length of the text whatever is in it; what they find
counts only if its own arithmetic agrees: Luhn (ISO/IEC 7812-1) and the issuer's prefix and length for cards, length
by country and mod 97 (ISO 13616) for IBANs, the ranges never issued for social security numbers
(https://www.ssa.gov/employer/randomization.html), numbering plans (libphonenumber) for phones.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple, final

import phonenumbers
import re2

Kind = Literal["email", "phone", "card", "iban", "ip", "ssn"]
KINDS: Final[tuple[Kind, ...]] = ("email", "phone", "card", "iban", "ip", "ssn")


class Found(NamedTuple):
    """One piece of personal data in a text."""

    start: int
    end: int
    kind: str
    """A `Kind`, or the name of a pattern of the user's own."""
    normal: str
    """The same for all ways to write it: e-mail in lower case, phone as E.164, digits of a card."""


class Piece(NamedTuple):
    """A pattern's hit before it is checked."""

    start: int
    end: int
    text: str


_IBAN_COUNTRIES: Final = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
IBAN_LENGTHS: Final = {
    country: length for length, countries in _IBAN_COUNTRIES.items() for country in countries.split()
}
"""Characters of an IBAN by country, all 89 of SWIFT's IBAN Registry, release 101
(https://www.swift.com/standards/data-standards/iban-international-bank-account-number); compared with the copies of
it in python-stdnum 2.2 and schwifty 2026.10. Countries that print IBANs without being registered are left out."""

_EMAIL: Final = r"[\pL\pN_.+'%-]+(?:@|%40)[\pL\pN](?:[\pL\pN-]*\.)+(?:xn--[a-z0-9-]{2,59}|\pL{2,24})"
_NUMBER: Final = r"(?:\+|\(?\d)(?:[ ().\/-]{0,3}\d){6,}"
_V4: Final = r"\d{1,3}(?:\.\d{1,3}){3}"
_V6: Final = r"[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]*"
_IBAN_HEAD: Final = rf"(?i:(?:{'|'.join(IBAN_LENGTHS)})\d\d)"
_IBAN: Final = rf"{_IBAN_HEAD}(?i:(?:[ -]?[0-9A-Z]){{11}})"

_GATES: Final[dict[Kind, str]] = {
    "email": "@|%40",
    "phone": _NUMBER,
    "card": _NUMBER,
    "iban": _IBAN,
    "ip": rf"{_V4}|{_V6}",
    "ssn": _NUMBER,
}

# Within a run of digits that RE2 found; nothing in them repeats, so they are linear too.
_DIGITS: Final = re.compile(r"[0-9]+")
_SSN: Final = re.compile(r"(?<![^\W_])[0-9]{3}[ -][0-9]{2}[ -][0-9]{4}(?![^\W_])")
_NORTH_AMERICAN: Final = re.compile(
    r"(?<![^\W_])(?:1[ .-]?)?(?:\([2-9][0-9]{2}\)[ .-]?|[2-9][0-9]{2}[ .-])[0-9]{3}[ .-][0-9]{4}(?![^\W_])"
)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?")
_DATE: Final = re.compile(r"(?:\d{4}[-/.]\d\d[-/.]\d\d|\d\d[-/.]\d\d[-/.]\d{4})(?!\d)")
_FOUR_PARTS: Final = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}(?!\d)")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}")
_SHORTEST: Final = 4
_SHORTEST_IBAN: Final = min(IBAN_LENGTHS.values())
_NORTH_AMERICA: Final = frozenset(phonenumbers.region_codes_for_country_code(1))
_MOST_DIGITS: Final = 17
"""Of a phone number: 15 of E.164, and 00."""
_GAP: Final = 3
_MOST_PHONES: Final = 200
"""Places tried for numbers without a + in one text, each some 10 µs and more."""

_ZEROS: Final = (
    "660 6F0 7C0 966 9E6 A66 AE6 B66 BE6 C66 CE6 D66 DE6 E50 ED0 F20 1040 1090 17E0 1810 1946 19D0 1A80 "
    "1A90 1B50 1BB0 1C40 1C50 A620 A8D0 A900 A9D0 A9F0 AA50 ABF0 FF10 104A0 10D30 11066 110F0 11136 111D0 "
    "112F0 11450 114D0 11650 116C0 11730 118E0 11950 11C50 11D50 11DA0 16A60 16AC0 16B50 1D7CE 1D7D8 "
    "1D7E2 1D7EC 1D7F6 1E140 1E2F0 1E950 1FBF0"
)
"""The digit nought of every script (Unicode 14, category Nd); one to nine follow it."""

# What looks like a digit, a dash, a space or an @ is read as one. One character stays one, so that places agree.
_SAME: Final = {int(zero, 16) + digit: str(digit) for zero in _ZEROS.split() for digit in range(10)}
_SAME.update(dict.fromkeys((0xA0, 0x202F, 0x3000, *range(0x2000, 0x200B)), " "))
_SAME.update(dict.fromkeys((0x2212, 0xFE58, 0xFE63, 0xFF0D, *range(0x2010, 0x2016)), "-"))
_SAME.update(
    dict.fromkeys((0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF), "-")
)  # invisible: as good as a dash
_SAME.update({0xFF20: "@", 0xFE6B: "@", 0xFF0E: ".", 0x3002: ".", 0xFF0B: "+", 0xFF08: "(", 0xFF09: ")"})


def plain(text: str) -> str:
    """Return the text as it is searched, of the same length: lookalikes as ASCII, lone surrogates as `?`."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8").translate(_SAME)


class Pattern(NamedTuple):
    """A pattern of the user's own, in RE2's syntax."""

    name: str
    expression: str


def pattern_error(expression: str) -> str:
    """Return what is wrong with an expression; empty if nothing is."""
    try:
        _compiled(expression)
    except re2.error as error:
        text = error.args[0]
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return "matches the empty text" if re2.search(expression, "", _quiet()) is not None else ""


@final
class Finder:
    """Finds chosen kinds; made once, used for every event."""

    def __init__(
        self, kinds: Iterable[Kind], *, phone_regions: Sequence[str] = (), patterns: Sequence[Pattern] = ()
    ) -> None:
        wanted = frozenset(kinds)
        self._regions = tuple(region.upper() for region in phone_regions)
        self._national = tuple(region for region in self._regions if region not in _NORTH_AMERICA)
        self._checks: list[Callable[[str, bytes | str], Iterator[Found]]] = []
        if "email" in wanted:
            self._checks.append(_emails)
        if "iban" in wanted:
            self._checks.append(_ibans)
        self._cards, self._phones, self._ssns = "card" in wanted, "phone" in wanted, "ssn" in wanted
        self._north_american = self._phones and len(self._national) < len(self._regions)
        if wanted & {"card", "phone", "ssn"}:
            self._checks.append(self._numbers)
        if "ip" in wanted:
            self._checks.append(_addresses)
        self._patterns = [(item.name, _compiled(item.expression)) for item in patterns]
        gates = dict.fromkeys(_GATES[kind] for kind in KINDS if kind in wanted)
        self._gate = re2.compile("|".join(gates).encode(), _quiet()) if gates else None

    def suspects(self, texts: Sequence[str]) -> Sequence[int]:
        """Return the indexes of the texts that `find` may find something in, ascending.

        One pass of RE2 over all of them together, which costs less than one call for each.
        """
        if self._patterns:
            return range(len(texts))
        if self._gate is None or not texts:
            return ()
        joined = "\0".join(texts)
        if joined.count("\0") != len(texts) - 1:
            joined = "\0".join([text.replace("\0", " ") for text in texts])
        data = joined.encode() if joined.isascii() else plain(joined).encode()
        found: list[int] = []
        index = last = 0
        for match in self._gate.finditer(data):
            at = match.start()
            index += data.count(b"\0", last, at)
            last = at
            if not found or found[-1] != index:
                found.append(index)
        return found

    def find(self, text: str) -> list[Found]:
        """Return what is found, in order; what overlaps is one find, so that none of it shows."""
        if len(text) < _SHORTEST and not self._patterns:
            return []
        searched = plain(text)
        data: bytes | str = searched.encode() if searched.isascii() else searched
        found: list[Found] = []
        if not is_opaque(searched):
            for check in self._checks:
                found.extend(check(searched, data))
        for name, pattern in self._patterns:
            found.extend(
                Found(match.start(), match.end(), name, searched[match.start() : match.end()])
                for match in pattern.finditer(data)
                if match.end() > match.start()
            )
        return _merged(found, searched) if len(found) > 1 else found

    def normal(self, kind: str, text: str) -> str | None:
        """Return the normal form of a text that is wholly of one kind, None if it is not.

        Less strict than `find`, for a value whose key says what it is: digits may stand without signs between them.
        """
        searched = plain(text).strip()
        match kind:
            case "phone":
                for region in (None, *self._regions):
                    number = _parsed(searched, region)
                    if number is not None and phonenumbers.is_possible_number(number):
                        return _e164(number)
            case "ssn":
                digits = searched.replace("-", "").replace(" ", "")
                return digits if len(digits) == 9 and digits.isascii() and digits.isdigit() else None
            case _:
                for item in self.find(searched):
                    if item.kind == kind and item.end - item.start == len(searched):
                        return item.normal
        return None

    def _numbers(self, text: str, data: bytes | str) -> Iterator[Found]:
        left = _MOST_PHONES
        for run in _pieces(_COMPILED["number"], text, data):
            groups = [Piece(*group.span(), group[0]) for group in _DIGITS.finditer(text, run.start, run.end)]
            if self._cards:
                yield from _cards(text, groups)
            if self._ssns:
                yield from _ssns(text, run)
            if self._north_american:
                yield from _of_north_america(text, run)
            if self._phones:
                for item, tried in self._phones_of(text, run, groups, left):
                    left -= tried
                    if item is not None:
                        yield item

    def _phones_of(
        self, text: str, run: Piece, groups: Sequence[Piece], left: int
    ) -> Iterator[tuple[Found | None, int]]:
        """Yield (a number or None, tries that it took) for each place of a run where a number may begin.

        That is its beginning, behind another number, and a group that begins with 0.
        """
        at, past = 0, run.start
        while at < len(groups):
            start = run.start if at == 0 else groups[at].start
            begins = start - past <= _GAP or text[start] == "0"
            # Only a number behind a + may be tried without end: it has one try for its +.
            if begins and (left > 0 or text[start] == "+"):
                window = groups[at : at + _MOST_DIGITS]
                found = self._phone_at(
                    text, Piece(start, window[-1].end, text[start : window[-1].end]), window
                )
                left -= 1
                yield found, 1
                if found is not None:
                    past = found.end
                    while at < len(groups) and groups[at].start < past:
                        at += 1
                    continue
            at += 1

    def _phone_at(self, text: str, run: Piece, groups: Sequence[Piece]) -> Found | None:
        if run.text.startswith(("+", "00")) and (found := _international(run, groups)):
            return found
        return self._of_region(text, run, groups) if self._national else None

    def _of_region(self, text: str, run: Piece, groups: Sequence[Piece]) -> Found | None:
        if len(groups) < 2 or not _apart(text, run.start, run.end):
            return None
        if _DATE.match(run.text) or _FOUR_PARTS.match(run.text):
            return None
        for end, candidate in _leading(run, groups, fewest=7):
            for region in self._national:
                number = _parsed(candidate, region)
                if number is not None and phonenumbers.is_valid_number(number):
                    return Found(run.start, end, "phone", _e164(number))
        return None


def is_opaque(text: str) -> bool:
    """Tell whether a text is a time or a UUID, whose digits mean nothing else."""
    if text[4:5] == "-":
        return _TIME.fullmatch(text) is not None
    return len(text) == 36 and text[8] == "-" and _UUID.fullmatch(text) is not None


def luhn(digits: str) -> bool:
    """Tell whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    odd = digits[-1::-2]
    even = digits[-2::-2]
    return (sum(map(int, odd)) + sum(_DOUBLED[int(digit)] for digit in even)) % 10 == 0


_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def iban_valid(compact: str) -> bool:
    """Tell whether upper-case letters and digits are an IBAN: its country's length, and mod 97 gives 1."""
    # 00, 01 and 99 are never given, for 97, 98 and 02 mean the same.
    if IBAN_LENGTHS.get(compact[:2]) != len(compact) or compact[2:4] in ("00", "01", "99"):
        return False
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1


def issued_card(digits: str) -> bool:
    """Tell whether an issuer gives out numbers with this beginning and length, and Luhn agrees."""
    length, first2, first4 = len(digits), int(digits[:2]), int(digits[:4])
    match digits[0]:
        case "4":
            fits = length in (13, 16, 19)
        case "5":
            fits = length == 16 if 51 <= first2 <= 55 else first2 in (50, 56, 57, 58) and 12 <= length <= 19
        case "3":
            fits = (
                (length == 15 and first2 in (34, 37))
                or (length >= 16 and 3528 <= first4 <= 3589)
                or (length >= 14 and (first2 in (36, 38, 39) or 3000 <= first4 <= 3059))
            )
        case "6":
            fits = 12 <= length <= 19
        case "2":
            fits = (length == 16 and 2221 <= first4 <= 2720) or (length >= 16 and 2200 <= first4 <= 2204)
        case "8":
            fits = length >= 16 and first2 in (81, 82)
        case _:
            fits = False
    return fits and luhn(digits)


def _emails(text: str, data: bytes | str) -> Iterator[Found]:
    if "@" not in text and "%40" not in text:
        return
    for piece in _pieces(_COMPILED["email"], text, data):
        yield Found(piece.start, piece.end, "email", piece.text.replace("%40", "@").lower())


def _ibans(text: str, data: bytes | str) -> Iterator[Found]:
    if len(text) < _SHORTEST_IBAN:
        return
    past = 0
    for head in _pieces(_COMPILED["iban head"], text, data):
        if head.start < past or text[max(head.start - 1, 0) : head.start].isalnum():
            continue
        wanted = IBAN_LENGTHS[head.text[:2].upper()]
        compact, end = _alphanumeric(text, head.start, wanted)
        if len(compact) == wanted and not text[end : end + 1].isalnum() and iban_valid(compact):
            yield Found(head.start, end, "iban", compact)
            past = end


def _alphanumeric(text: str, start: int, wanted: int) -> tuple[str, int]:
    """Return that many letters and digits in upper case, with at most one space or dash between two, and the end."""
    taken: list[str] = []
    place = start
    while len(taken) < wanted and place < len(text):
        char = text[place]
        if char.isascii() and char.isalnum():
            taken.append(char)
        elif char not in " -" or text[place - 1] in " -":
            break
        place += 1
    return "".join(taken).upper(), place


def _cards(text: str, groups: Sequence[Piece]) -> Iterator[Found]:
    """Digits in one group, or in several of at least two, each apart by one character."""
    for first, start in enumerate(groups):
        if start.start and text[start.start - 1].isalpha():
            continue
        digits = ""
        longest: Found | None = None
        for at in range(first, len(groups)):
            group = groups[at]
            if at > first and (group.start - groups[at - 1].end != 1 or len(group.text) < 2):
                break
            digits += group.text
            if len(digits) > 19:
                break
            if (
                len(digits) >= 12
                and (at == first or len(start.text) >= 2)
                and not text[group.end : group.end + 1].isalpha()
                and issued_card(digits)
            ):
                longest = Found(start.start, group.end, "card", digits)
        if longest is not None:
            yield longest


def _international(run: Piece, groups: Sequence[Piece]) -> Found | None:
    possible: Found | None = None
    for end, candidate in _leading(run, groups, fewest=7):
        plus = candidate[0] == "+"
        number = _parsed(candidate if plus else f"+{candidate[2:]}", None)
        if number is None:
            continue
        if phonenumbers.is_valid_number(number):
            return Found(run.start, end, "phone", _e164(number))
        # 00 begins many a group of digits, so there the numbering plan decides; a + is written for phones only.
        wider = possible is None or end > possible.end
        if plus and wider and phonenumbers.is_possible_number(number):
            possible = Found(run.start, end, "phone", _e164(number))
    return possible


def _leading(run: Piece, groups: Sequence[Piece], *, fewest: int) -> Iterator[tuple[int, str]]:
    """Yield (end, text) of the run's beginnings that have the digits of a phone number.

    The longest first, but before them those that end where a group with a 0 may begin the next number.
    """
    before_next: list[int] = []
    ends: list[int] = []
    digits = 0
    last = run.start
    for group in groups:
        if " / " in run.text[last - run.start : group.start - run.start]:
            break  # between two numbers, not within one
        if ends and group.text[0] == "0":
            before_next.append(last)
        last = group.end
        digits += len(group.text)
        if digits > _MOST_DIGITS:
            break
        if digits >= fewest:
            ends.append(last)
    for end in dict.fromkeys((*before_next, *reversed(ends))):
        yield end, run.text[: end - run.start]


def _of_north_america(text: str, run: Piece) -> Iterator[Found]:
    for match in _NORTH_AMERICAN.finditer(text, run.start, run.end):
        if text[match.end() : match.end() + 1].isalnum():
            continue  # the end given hides from the pattern what is behind
        digits = "".join(_DIGITS.findall(match[0]))
        yield Found(match.start(), match.end(), "phone", f"+1{digits[-10:]}")


def _ssns(text: str, run: Piece) -> Iterator[Found]:
    for match in _SSN.finditer(text, run.start, run.end):
        digits = "".join(_DIGITS.findall(match[0]))
        if not text[match.end() : match.end() + 1].isalnum() and ssn_issued(digits):
            yield Found(match.start(), match.end(), "ssn", digits)


def ssn_issued(digits: str) -> bool:
    """Tell whether nine digits can be a social security number."""
    area = digits[:3]
    return area not in ("000", "666") and area[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


def _addresses(text: str, data: bytes | str) -> Iterator[Found]:
    if text.count(".") > 2:
        for piece in _pieces(_COMPILED["v4"], text, data):
            after = text[piece.end : piece.end + 2]
            dotted = text[piece.start - 1 : piece.start] == "." or (after[:1] == "." and after[1:].isdigit())
            # N.0.0.0 is no host's address but what browsers call their version since they hide it.
            if not dotted and not piece.text.endswith(".0.0.0") and _apart(text, piece.start, piece.end):
                parts = [int(part) for part in piece.text.split(".")]
                if max(parts) < 256:
                    yield Found(piece.start, piece.end, "ip", ".".join(map(str, parts)))
    if text.count(":") > 1:
        for piece in _pieces(_COMPILED["v6"], text, data):
            candidate = piece.text.rstrip(".")
            if candidate.endswith(":") and not candidate.endswith("::"):
                candidate = candidate[:-1]
            if "::" not in candidate and candidate.count(":") < 6:
                continue
            end = piece.start + len(candidate)
            if _apart(text, piece.start, end) and (normal := _v6(candidate)):
                yield Found(piece.start, end, "ip", normal)


def _v6(candidate: str) -> str:
    try:
        address = ipaddress.IPv6Address(candidate)
    except ValueError:
        return ""
    # The unspecified and the loopback address are nobody's.
    return "" if int(address) < 2 else address.compressed


def _apart(text: str, start: int, end: int) -> bool:
    """Whether no letter or digit is directly before or behind."""
    return not (start and text[start - 1].isalnum()) and not text[end : end + 1].isalnum()


def _merged(found: list[Found], text: str) -> list[Found]:
    found.sort(key=lambda item: (item.start, -item.end))
    merged = [found[0]]
    for item in found[1:]:
        last = merged[-1]
        if item.start >= last.end:
            merged.append(item)
        elif item.end > last.end:
            wider = item if item.end - item.start > last.end - last.start else last
            merged[-1] = Found(last.start, item.end, wider.kind, text[last.start : item.end])
    return merged


def _parsed(text: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None


def _e164(number: phonenumbers.PhoneNumber) -> str:
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _pieces(pattern: "re2._Regexp", text: str, data: bytes | str) -> Iterator[Piece]:
    for match in pattern.finditer(data):
        start, end = match.span()
        yield Piece(start, end, text[start:end])


def _quiet() -> "re2.Options":
    options = re2.Options()
    options.log_errors = False
    return options


def _compiled(expression: str) -> "re2._Regexp":
    return re2.compile(expression.encode("utf-8", "replace"), _quiet())


_COMPILED: Final = {
    name: _compiled(expression)
    for name, expression in (
        ("email", _EMAIL),
        ("number", _NUMBER),
        ("iban head", _IBAN_HEAD),
        ("v4", _V4),
        ("v6", _V6),
    )
}
