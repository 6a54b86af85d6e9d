"""`mask_pii`: finds personal data anywhere in an event, in values and keys; masks, removes, hashes or replaces it.

A ready-made transformation (privacy), also for the gateway's edge policy. What is looked for and how it is told apart
from order numbers and times stands in `detect`; what takes its place in `disguise`.

Cost of an event of 1.1 KiB on one core of a small virtual machine: some 40 µs when nothing is in it, 125 to 250 µs
with two addresses, an e-mail address and a phone number (libphonenumber takes a third of that). One walk copies the
event and notes its texts, one pass of RE2 over all of them together says which are worth a closer look, and texts
that were found clean are remembered.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, NamedTuple, final

import msgspec
import phonenumbers

from mainstem.destinations.kit.paths import Step, parse_path
from mainstem.secret import Secret
from mainstem.transformations.base import About, Change, Failed, Kept, Result
from mainstem.transformations.ready.base import ReadySpec, TextChange, Tools
from mainstem.transformations.ready.detect import (
    KINDS,
    Finder,
    Kind,
    Pattern,
    is_opaque,
    pattern_error,
    plain,
)
from mainstem.transformations.ready.disguise import How, KeepLast, keyed_hash, masked, salt_problem, token
from mainstem.transformations.ready.edit import check_path

_KNOWN_KEYS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "email": ("email", "e_mail", "email_address", "user_email", "mail"),
    "phone": (
        "phone",
        "phone_number",
        "mobile",
        "mobile_number",
        "mobile_phone",
        "cell_phone",
        "telephone",
        "msisdn",
    ),
    "card": (
        "card_number",
        "credit_card",
        "credit_card_number",
        "cc_number",
        "pan",
        "cvv",
        "cvc",
        "card_cvc",
    ),
    "iban": ("iban", "bank_account", "bank_account_number"),
    "ip": ("ip_address", "remote_addr", "client_ip", "request_ip"),
    "ssn": ("ssn", "social_security_number"),
}
_SECRET_KEYS: Final = (
    *("password", "passwd", "pwd", "passphrase", "new_password", "old_password", "password_confirmation"),
    *(
        "secret",
        "client_secret",
        "api_key",
        "api_secret",
        "access_token",
        "refresh_token",
        "id_token",
        "auth_token",
    ),
    *("authorization", "private_key"),
)
_IDS: Final = ("userId", "anonymousId", "groupId", "previousId")
_NOT_WORD: Final = re.compile(r"[\W_]+")
_REMEMBERED: Final = 4096
_REMEMBERED_CHARACTERS: Final = 256
_SMALLEST_NUMBER: Final = 10**6
_NUMBER_BITS: Final = 126
"""38 digits; a longer number is no card, account or phone number."""
_LONGEST_PATTERN: Final = 1000
_FORCED: Final = "key"


class CustomPattern(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pattern of the user's own."""

    name: str
    """What it finds, as `how_by_kind` and `{kind}` name it."""
    pattern: str
    """A regular expression in RE2's syntax."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `mask_pii` is told."""

    SECRET_FIELDS: ClassVar = frozenset({"salt"})

    find: tuple[Kind, ...] = KINDS
    """What to look for: `email`, `phone`, `card`, `iban`, `ip`, `ssn`."""
    patterns: tuple[CustomPattern, ...] = ()
    """More to look for: a list of `{name, pattern}`, the pattern a regular expression in RE2's syntax
    (https://github.com/google/re2/wiki/Syntax). Costs about a microsecond a field and pattern."""
    phone_regions: tuple[str, ...] = ("US",)
    """Countries whose phone numbers are known without a country code, as two letters (`US`, `DE`). Numbers that begin
    with + or 00 always are; digits without any space or sign between them never are, for most of them are ids."""
    how: How = "mask"
    """What becomes of it. `mask`: stars for letters and digits. `remove`: it is cut out, and a field that is nothing
    else goes too. `hash`: HMAC-SHA256 of its normal form (e-mail in lower case, phone as E.164, digits only) under
    `salt`. `tokenise`: a text of the same form that belongs to nobody, the same for the same data, under `salt`."""
    how_by_kind: dict[str, How] = {}
    """Other ways for some kinds: `{ip: remove, card: tokenise}`. The kind `key` is what is masked for its key alone."""
    keep_last: KeepLast = 0
    """With `mask`: how many of the last letters or digits stay, at most 4; none where only the key says what it is."""
    mask_text: str = ""
    """With `mask`: a fixed text in place of stars; `{kind}` in it becomes what was found (`[email]`)."""
    salt: Secret = Secret("")
    """The secret key of `hash` and `tokenise`, 16 characters or more. Changing it changes every hash and token."""
    known_keys: bool = True
    """Whether the whole value is masked below keys that say what it is, whatever it looks like: `email`, `phone`,
    `card_number`, `cvv`, `iban`, `ip_address`, `ssn` (each with its kind), `password`, `secret`, `api_key`,
    `access_token`, `authorization` and the like (always). Case, `_`, `-` and spaces in keys do not matter."""
    keys: tuple[str, ...] = ()
    """More keys whose whole value is always masked, at any depth: `firstName`, `birthday`, `address`."""
    search_keys: bool = True
    """Whether keys themselves are searched."""
    ids: bool = False
    """Whether `userId`, `anonymousId`, `groupId` and `previousId` are searched too. They decide about order and
    identity: with `mask`, different users become one. One named in `include` is searched too; `messageId` never."""
    include: tuple[str, ...] = ()
    """Paths to search, with all below them; empty = the whole event. `context.traits`, `properties.items[*].note`."""
    exclude: tuple[str, ...] = ()
    """Paths that stay as they are, with all below them. The longest path that fits a field decides."""

    def __post_init__(self) -> None:
        names = {*KINDS, *(item.name for item in self.patterns), _FORCED}
        for index, item in enumerate(self.patterns):
            if not item.name or item.name in (*KINDS, _FORCED):
                raise ValueError(f"`patterns[{index}].name` is empty or a kind there is already")
            if len(item.pattern) > _LONGEST_PATTERN:
                raise ValueError(f"`patterns[{index}].pattern` is longer than {_LONGEST_PATTERN} characters")
            if problem := pattern_error(item.pattern):
                raise ValueError(f"`patterns[{index}].pattern`: {problem}")
        for region in self.phone_regions:
            if region.upper() not in phonenumbers.SUPPORTED_REGIONS:
                raise ValueError(
                    f"`phone_regions`: there is no country `{region}`; write two letters, like DE"
                )
        for kind in self.how_by_kind:
            if kind not in names:
                raise ValueError(
                    f"`how_by_kind`: there is no kind `{kind}`; there are {', '.join(sorted(names))}"
                )
        if not self.salt and {self.how, *self.how_by_kind.values()} & {"hash", "tokenise"}:
            raise ValueError("`salt` is missing; hash and tokenise need a secret, such as ${PII_SALT}")
        for setting, paths in (("include", self.include), ("exclude", self.exclude)):
            for path in paths:
                check_path(setting, path)

    def warnings(self) -> list[tuple[str, str]]:
        """Return what is allowed but hardly meant."""
        found = []
        if self.salt and (problem := salt_problem(self.salt)):
            found.append(("salt", problem))
        if self.ids and "mask" in {self.how_by_kind.get(kind, self.how) for kind in self.find}:
            found.append(("ids", "masked ids make different users one; use hash or tokenise"))
        return found


class _KeyRule(NamedTuple):
    name: str | None
    """The key as it goes on; None: the member goes."""
    forced: str
    """The kind below a key that says what its value is; empty = the value is searched."""
    skipped: bool = False
    """Below `…version` four numbers with dots are no address."""


class _Scope:
    """A place in the event that paths name: what they say of it, and what is below."""

    __slots__ = ("below", "inside")

    def __init__(self) -> None:
        self.inside: bool | None = None
        self.below: dict[Step, _Scope] = {}

    def add(self, steps: tuple[Step, ...], *, inside: bool) -> None:
        place = self
        for step in steps:
            place = place.below.setdefault(step, _Scope())
        # Excluded last, so it wins at the same place.
        place.inside = inside


_Scopes = tuple[_Scope, ...]
_Leaf = tuple[dict[str, Any] | list[Any], Any, str, str]
"""(the copy it lies in, its key or index, its text, the kind it is forced to be)."""


class _Gone:
    """Stands in a list for an element that goes."""


_GONE: Final = _Gone()
_TOO_DEEP: Final = Failed("the event is nested too deeply to be searched for personal data")


@final
class _Masker:
    """One policy, ready to run."""

    def __init__(self, settings: Settings) -> None:
        self._finder = Finder(
            settings.find,
            phone_regions=settings.phone_regions,
            patterns=[Pattern(item.name, item.pattern) for item in settings.patterns],
        )
        # Below a key that names a version there is no address: 4.1.0.2 is one too.
        self._but_addresses = Finder(
            [kind for kind in settings.find if kind != "ip"],
            phone_regions=settings.phone_regions,
            patterns=[Pattern(item.name, item.pattern) for item in settings.patterns],
        )
        self._replacements = _replacements(settings, loose=False)
        self._loose_replacements = _replacements(settings, loose=True)
        self._every_text = bool(settings.patterns)
        self._search_keys = settings.search_keys
        self._forced: dict[str, str] = {}
        if settings.known_keys:
            self._forced.update((_bare(key), _FORCED) for key in _SECRET_KEYS)
            self._forced.update((_bare(key), kind) for kind in settings.find for key in _KNOWN_KEYS[kind])
        self._forced.update((_bare(key), _FORCED) for key in settings.keys)
        self._clean: set[str] = set()
        """Texts without personal data that were searched in full: user agents, URLs. Only such are remembered."""
        self._rules: dict[str, _KeyRule] = {}
        self._root = _Scope()
        self._root.inside = not settings.include
        for path in settings.include:
            self._root.add(parse_path(path), inside=True)
        for path in settings.exclude:
            self._root.add(parse_path(path), inside=False)
        for field in () if settings.ids else _IDS:
            if field not in self._root.below:
                self._root.add((field,), inside=False)
        self._root.below.pop("messageId", None)
        self._root.add(("messageId",), inside=False)

    def message(self, message: dict[str, Any], about: About) -> Result:
        """Return the message without the personal data."""
        leaves: list[_Leaf] = []
        try:
            copy, renamed = self._dict(message, (self._root,), self._root.inside is True, "", leaves)
        except RecursionError:
            return _TOO_DEEP
        texts = [leaf[2] for leaf in leaves]
        changed = renamed
        suspects = self._finder.suspects(texts)
        forced = [index for index, leaf in enumerate(leaves) if leaf[3]]
        holes: list[list[Any]] = []
        for index in sorted({*suspects, *forced}) if forced else suspects:
            place, key, text, kind = leaves[index]
            new = self._forced_text(text, kind) if kind else self._text(text, version=_is_version(key))
            if new is text:
                continue
            changed = True
            if new is not None:
                place[key] = new
            elif isinstance(place, dict):
                del place[key]
            else:
                place[key] = _GONE
                holes.append(place)
        for items in holes:
            items[:] = [item for item in items if item is not _GONE]
        return Kept((copy if changed else message,))

    def text(self, text: str) -> str:
        """Return a loose text without the personal data."""
        return self._text(text, version=False) or ""

    def _dict(
        self, members: dict[str, Any], scopes: _Scopes, inside: bool, forced: str, leaves: list[_Leaf]
    ) -> tuple[dict[str, Any], bool]:
        """Copy an object, noting its texts; also tell whether a key changed in it or below."""
        copy: dict[str, Any] = {}
        changed = False
        rules = self._rules
        every_text = self._every_text
        for key, value in members.items():
            below, within = _narrowed(scopes, key, inside) if scopes else ((), inside)
            if not within:
                if below and isinstance(value, dict | list):
                    copy[key], renamed = self._any(value, below, within, "", leaves)
                    changed = changed or renamed
                else:
                    copy[key] = value
                continue
            rule = rules.get(key) or self._learn(key)
            name = rule.name
            if name is None:
                changed = True
                continue
            if name != key:
                changed = True
                name = _free(name, copy, members)
            kind = forced or rule.forced
            if type(value) is str:
                copy[name] = value
                if kind or every_text or _searchable(value):
                    leaves.append((copy, name, value, kind))
            elif type(value) is dict or type(value) is list:
                copy[name], renamed = self._any(value, below, within, kind, leaves)
                changed = changed or renamed
            else:
                copy[name] = value
                if (text := _number_text(value, kind)) is not None:
                    leaves.append((copy, name, text, kind))
        return copy, changed

    def _any(
        self, value: Any, scopes: _Scopes, inside: bool, forced: str, leaves: list[_Leaf]
    ) -> tuple[Any, bool]:
        if type(value) is dict:
            return self._dict(value, scopes, inside, forced, leaves)
        copy: list[Any] = list(value)
        changed = False
        for index, item in enumerate(value):
            below, within = _narrowed(scopes, index, inside) if scopes else ((), inside)
            if type(item) is dict or type(item) is list:
                if within or below:
                    copy[index], renamed = self._any(item, below, within, forced, leaves)
                    changed = changed or renamed
            elif not within:
                continue
            elif type(item) is str:
                if forced or self._every_text or _searchable(item):
                    leaves.append((copy, index, item, forced))
            elif (text := _number_text(item, forced)) is not None:
                leaves.append((copy, index, text, forced))
        return copy, changed

    def _learn(self, key: str) -> _KeyRule:
        name = self._text(key, version=False) if self._search_keys else key
        rule = _KeyRule(name, self._forced.get(_bare(key), ""))
        if name == key and len(key) <= _REMEMBERED_CHARACTERS:
            if len(self._rules) >= _REMEMBERED:
                self._rules.clear()
            self._rules[key] = rule
        return rule

    def _text(self, text: str, *, version: bool) -> str | None:
        """Return the text with every find replaced, the same object if there is none, None if nothing is left."""
        if text in self._clean:
            return text
        found = (self._but_addresses if version else self._finder).find(text)
        if not found:
            if not version and len(text) <= _REMEMBERED_CHARACTERS:
                if len(self._clean) >= _REMEMBERED:
                    self._clean.clear()
                self._clean.add(text)
            return text
        parts: list[str] = []
        at = 0
        for item in found:
            parts.append(text[at : item.start])
            parts.append(self._replacements[item.kind](item.normal, text[item.start : item.end]))
            at = item.end
        parts.append(text[at:])
        new = "".join(parts)
        return new if new.strip() else None

    def _forced_text(self, text: str, kind: str) -> str | None:
        """Return what a value becomes that is personal data because of its key."""
        stripped = text.strip()
        if not stripped:
            return text
        normal = None if kind == _FORCED else self._finder.normal(kind, stripped)
        if normal is not None:
            new = self._replacements[kind](normal, text)
        else:
            new = self._loose_replacements[kind](stripped, text)
        return new or None


def _replacements(settings: Settings, *, loose: bool) -> Mapping[str, Callable[[str, str], str]]:
    """Return, by kind, what makes a replacement of a find's (normal form, text).

    Loose: for a text that need not look like its kind, so nothing of it is kept and no token imitates it.
    """
    salt = settings.salt.reveal().encode("utf-8", "replace")

    def replacement(kind: str) -> Callable[[str, str], str]:
        match settings.how_by_kind.get(kind, settings.how):
            case "remove":
                return lambda normal, text: ""
            case "hash":
                return lambda normal, text: keyed_hash(salt, normal)
            case "tokenise":
                form = _FORCED if loose else kind
                return lambda normal, text: token(salt, form, normal)
            case "mask":
                if settings.mask_text:
                    fixed = settings.mask_text.replace("{kind}", kind)
                    return lambda normal, text: fixed
                keep_last = 0 if loose else settings.keep_last
                if kind == "email":
                    # In a URL the @ stands as %40, of which stars would make no character at all.
                    return lambda normal, text: masked(text.replace("%40", "@"), keep_last)
                return lambda normal, text: masked(text, keep_last)

    return {kind: replacement(kind) for kind in (*KINDS, *(item.name for item in settings.patterns), _FORCED)}


def _narrowed(scopes: _Scopes, step: str | int, inside: bool) -> tuple[_Scopes, bool]:
    below: list[_Scope] = []
    for scope in scopes:
        named = scope.below.get(step)
        if named is not None:
            below.append(named)
        if isinstance(step, int) and (every := scope.below.get(None)) is not None:
            below.append(every)
    said = [scope.inside for scope in below if scope.inside is not None]
    return tuple(scope for scope in below if scope.below), all(said) if said else inside


def _number_text(value: Any, forced: str) -> str | None:
    """Return a number as it is searched, None when it can hold nothing."""
    kind = type(value)
    if kind is float and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    elif kind is float and forced:
        return repr(value)
    elif kind is not int:
        return None
    if value.bit_length() > _NUMBER_BITS:
        return f"{value:x}" if forced else None
    return str(value) if forced or value >= _SMALLEST_NUMBER else None


def _searchable(text: str) -> bool:
    """Whether built-in kinds can be in a text; what is no letter is in all of them, but not in most texts."""
    if len(text) < 4 or text.isalpha():
        return False
    return not ((text[4:5] == "-" or len(text) == 36) and is_opaque(text))


def _is_version(key: Any) -> bool:
    return isinstance(key, str) and key.lower().endswith("version")


def _bare(key: str) -> str:
    """Return a key as it is compared: `E-Mail`, `e_mail` and `email` are the same."""
    return _NOT_WORD.sub("", plain(key)).lower()


def _free(name: str, copy: Mapping[str, Any], members: Mapping[str, Any]) -> str:
    """Return the name, numbered if another member has it: none is lost because keys became alike."""
    free, count = name, 1
    while free in copy or free in members:
        count += 1
        free = f"{name} {count}"
    return free


def make(settings: Settings, _: Tools) -> Change:
    """Return the change for these settings."""
    return _Masker(settings).message


def make_text(settings: Settings) -> TextChange:
    """Return the same policy for loose texts."""
    return _Masker(settings).text


SPEC: Final = ReadySpec(
    name="mask_pii",
    title="Find personal data anywhere and mask, remove, hash or tokenise it",
    text="""Searches every text, number and key of the event, at any depth, for e-mail addresses, phone numbers, cards
    (issuer and Luhn check digit), IBANs (country's length and check digits), IPv4 and IPv6 addresses, US social
    security numbers and patterns of your own. Values below keys that say what they are (`email`, `password` …) are
    replaced whole. Digits and signs of other scripts, full-width forms and invisible characters in between do not hide
    anything; `%40` in URLs counts as @. Times, UUIDs and the ids of user and event stay. A number in which something
    is found becomes a text. By default `context.ip` and `request_ip` are masked too: use `exclude`, or `truncate_ip`
    instead of `ip` in `find`, if you want a country for them.""",
    group="privacy",
    settings=Settings,
    make=make,
    make_text=make_text,
    edge=True,
)
