"""Currencies: amounts of many currencies in one, at fixed rates, in decimal arithmetic.

Codes and the digits behind the point are ISO 4217's (https://www.iso.org/iso-4217-currency-codes.html, list one
of 2026-01, with codes withdrawn since 2016, which stored events still carry). Rates stand in the settings, so
that replay gives the same amounts; a new rate is a new version of the transformation.
"""

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Final, Literal

import msgspec

from mainstem.destinations.kit.paths import MISSING, Json, compile_read, parse_path, without_gaps
from mainstem.transformations.base import About, Change, Dropped, Failed, Kept, Result
from mainstem.transformations.ready.base import ReadySpec, Tools
from mainstem.transformations.ready.edit import Update, bounded, check_path, check_writable, compile_edit, put

_TWO_DIGITS: Final = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE "
    "CHF CHW CNY COP COU CRC CUC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD "
    "HNL HRK HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP "
    "MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR "
    "SDG SEK SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED "
    "VES WST XCD XCG YER ZAR ZMW ZWG ZWL"
)
_NO_DIGITS: Final = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE_DIGITS: Final = "BHD IQD JOD KWD LYD OMR TND"
_FOUR_DIGITS: Final = "CLF UYW"
DIGITS: Final = {
    code: digits
    for digits, codes in ((2, _TWO_DIGITS), (0, _NO_DIGITS), (3, _THREE_DIGITS), (4, _FOUR_DIGITS))
    for code in codes.split()
}
"""How many digits behind the point an amount of a currency has."""

_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,24}(\.[0-9]{1,24})?")
_LARGEST: Final = 10**24
_EXACT: Final = Context(prec=120, rounding=ROUND_HALF_EVEN)


class NormaliseCurrencySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `normalise_currency` is told."""

    to: str
    """The currency that all amounts are to have: `EUR`."""
    rates: dict[str, Decimal]
    """What one unit of each currency is worth in that one: `{"USD": 0.92, "JPY": 0.0061}`."""
    amounts: tuple[str, ...] = (
        *("properties.revenue", "properties.value", "properties.total", "properties.price"),
        *("properties.products[*].price",),
    )
    """The fields with amounts, numbers or texts; those that the event does not have are passed over."""
    currency: str = "properties.currency"
    """The field with the code of all amounts of the event; case does not matter."""
    default_currency: str = ""
    """What events without a code mean; empty = they are not convertible."""
    original: str = ""
    """Where the code and the amounts as they came are kept: {currency, amounts {path: value}}; empty = nowhere."""
    not_convertible: Literal["fail", "pass", "drop"] = "fail"
    """What becomes of events with an amount whose currency has no rate or that is no number: a dead letter, on
    as it came, or dropped."""

    def __post_init__(self) -> None:
        if self.to not in DIGITS:
            raise ValueError(f"`to`: `{self.to}` is no ISO 4217 code; write it like EUR")
        for code, rate in self.rates.items():
            if code not in DIGITS:
                raise ValueError(f"`rates`: `{code}` is no ISO 4217 code; write it like USD")
            if not rate.is_finite() or not 0 < rate < _LARGEST or len(rate.as_tuple().digits) > 40:
                raise ValueError(f"`rates`: {code}: {rate} is no rate; it must be a number above 0")
        if (
            self.default_currency
            and self.default_currency not in self.rates
            and self.default_currency != self.to
        ):
            raise ValueError(f"`default_currency`: `{self.default_currency}` has no rate")
        if not self.amounts:
            raise ValueError("`amounts` is empty; name at least one field")
        for path in self.amounts:
            check_path("amounts", path)
            if self.amounts.count(path) > 1:
                raise ValueError(f"`amounts`: `{path}` is there twice; it would be converted twice")
        check_writable("currency", self.currency)
        if self.original:
            check_writable("original", self.original)


class _NotConvertible(Exception):
    """An amount that is no number; the text says which."""


def _number(path: str, value: Json) -> Decimal:
    if isinstance(value, bool):
        raise _NotConvertible(f"`{path}` is a boolean, not an amount")
    if isinstance(value, int | float):
        # NaN and infinity are no amounts, nor is what no currency has ever been counted in.
        if -_LARGEST < value < _LARGEST:
            # By its shortest decimal form, which is what the sender wrote: 0.1 is a tenth.
            return Decimal(repr(value))
    elif isinstance(value, str) and _NUMBER.fullmatch(text := value.strip()):
        return Decimal(text)
    raise _NotConvertible(f"`{path}` is not an amount")


def _make(settings: NormaliseCurrencySettings, _: Tools) -> Change:
    digits = DIGITS[settings.to]
    unit = Decimal(1).scaleb(-digits)
    currency_of = compile_read(parse_path(settings.currency))
    at_currency = compile_edit(settings.currency)
    at_original = compile_edit(settings.original) if settings.original else None
    amounts = [(path, compile_read(parse_path(path)), compile_edit(path)) for path in settings.amounts]

    def converter(path: str, rate: Decimal) -> Update:
        def convert(value: Json) -> Json:
            if value is MISSING or value is None:
                return value
            exact = _EXACT.multiply(_number(path, value), rate)
            rounded = exact.quantize(unit, context=_EXACT)
            if isinstance(value, str):
                return f"{rounded:f}"
            return float(rounded) if digits else int(rounded)

        return convert

    def unable(message: dict[str, Any], why: str) -> Result:
        if settings.not_convertible == "pass":
            return Kept((message,))
        return Dropped() if settings.not_convertible == "drop" else Failed(why)

    def normalise_currency(message: dict[str, Any], _: About) -> Result:
        given = {
            path: without_gaps(value) for path, read, _edit in amounts if _has_amount(value := read(message))
        }
        if not given:
            return Kept((message,))
        code = currency_of(message)
        code = code.strip().upper() if isinstance(code, str) else ""
        code = code or settings.default_currency
        if code == settings.to:
            return Kept((put(message, at_currency, settings.to),))
        rate = settings.rates.get(code)
        if rate is None:
            return unable(message, f"no rate for the currency {code[:12]!r}" if code else "no currency")
        changed = message
        try:
            for path, _read, edit in amounts:
                changed = edit(changed, converter(path, rate))
        except _NotConvertible as error:
            return unable(message, str(error))
        changed = put(changed, at_currency, settings.to)
        if at_original is not None:
            changed = put(changed, at_original, {"currency": code, "amounts": given})
        return Kept((changed,))

    return bounded(normalise_currency)


def _has_amount(value: Json) -> bool:
    if isinstance(value, list):
        return any(_has_amount(item) for item in value)
    return value is not MISSING and value is not None


NORMALISE_CURRENCY: Final = ReadySpec(
    name="normalise_currency",
    title="Normalise currencies",
    text=(
        "Converts amounts into one currency at fixed rates, in decimal arithmetic, rounded half to even to the "
        "digits that ISO 4217 gives the currency. Numbers stay numbers and texts stay texts. An event is "
        "converted whole or not at all."
    ),
    group="shape",
    settings=NormaliseCurrencySettings,
    make=_make,
)
