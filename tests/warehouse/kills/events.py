"""What comes in while writers are killed, and what has to be in the tables afterwards.

Every round brings a few events; over the rounds, new events (tables), new properties (columns), whole numbers that
become fractions and words, users whose traits change, and tracks that no table can be named for.
"""

import random
from collections import Counter, defaultdict
from typing import Any, Final

import msgspec

from mainstem.events.stored import StoredEvent
from mainstem.ledger.base import CountKey
from mainstem.warehouse.loader import Loader
from mainstem.warehouse.schema import DISCARDS, LOADS
from tests.warehouse.contract.rows import cased
from tests.warehouse.rig import START_MS

WORDS: Final = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"),
    *("nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
)
_USERS: Final = 5
_APART_MS: Final = 400_000
"""Between two events: some hundreds of them cover several days, which are partitions in lakes."""


class Story:
    """The events of all rounds. Made of a seed: the same one gives the same story."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._number = 0
        self.accepted = 0
        self.rows: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        """By table and id: what its columns must hold, or the discards."""
        self.refused: set[str] = set()
        """Ids of events that no table can be named for."""
        self.users: dict[str, dict[str, Any]] = {}

    def events(self, count: int) -> list[StoredEvent]:
        """The next events."""
        return [self._event() for _ in range(count)]

    def _event(self) -> StoredEvent:
        number = self._number
        self._number += 1
        self.accepted += 1
        kind = self._chance.choices(["order", "other", "identify", "nameless"], [50, 25, 20, 5])[0]
        # Some of all words that have come up so far: more as time goes on.
        word = WORDS[self._chance.randrange(1 + min(number // 40, len(WORDS) - 1))]
        return getattr(self, f"_{kind}")(number, word)  # type: ignore[no-any-return]

    def _order(self, number: int, word: str) -> StoredEvent:
        amount: Any = number
        if number > 100:
            amount = self._chance.choice([number, number, number + 0.5, f"about {number}"])
        return self._track(number, "Order Completed", {"n": number, "amount": amount, f"of_{word}": word})

    def _other(self, number: int, word: str) -> StoredEvent:
        return self._track(number, f"Step {word}", {"n": number})

    def _track(self, number: int, name: str, properties: dict[str, Any]) -> StoredEvent:
        message_id = f"m{number}"
        self.rows["tracks"][message_id] = {}
        self.rows[name.lower().replace(" ", "_")][message_id] = properties
        body = {"type": "track", "event": name, "messageId": message_id, "properties": properties}
        return _stored(number, self._chance.randrange(_USERS), body)

    def _identify(self, number: int, word: str) -> StoredEvent:
        message_id, user = f"m{number}", self._chance.randrange(_USERS)
        traits = {"latest": number, f"is_{word}": word}
        self.rows["identifies"][message_id] = traits
        self.users.setdefault(f"user-{user}", {}).update(traits)
        return _stored(number, user, {"type": "identify", "messageId": message_id, "traits": traits})

    def _nameless(self, number: int, _: str) -> StoredEvent:
        message_id = f"m{number}"
        self.refused.add(message_id)
        body = {"type": "track", "messageId": message_id, "properties": {"n": number}}
        return _stored(number, self._chance.randrange(_USERS), body)


def _stored(number: int, user: int, body: dict[str, Any]) -> StoredEvent:
    return StoredEvent(
        source_id="web",
        message_id=f"m{number}",
        type=body["type"],
        received_at_ms=START_MS + number * _APART_MS,
        raw=msgspec.json.encode({**body, "userId": f"user-{user}"}),
    )


# ---------------------------------------------------------------- afterwards


def compare(story: Story, loader: Loader) -> None:
    """See that the tables hold each accepted event once, with all its values, and nothing else.

    Raises:
        AssertionError: they do not.
    """
    schema = loader.fetch_schema()
    there = {table for table in schema if not table.lower().startswith("_mainstem")}
    expected = {cased(loader, table) for table in story.rows}
    discards = _discards(loader) if cased(loader, DISCARDS) in schema else {}
    assert there - {cased(loader, DISCARDS), cased(loader, "users")} == expected
    found_rows = {cased(loader, "users"): _count(loader, "users")} if story.users else {}
    kept = Counter({("track", row_id, "*"): 1 for row_id in story.refused})
    for table, rows in story.rows.items():
        found = _rows(loader, table)
        ids = Counter(row["id"] for row in found)
        wanted = Counter(rows.keys())
        assert ids == wanted, f"{table}: {_difference(ids, wanted)}"
        found_rows[cased(loader, table)] = len(found)
        for row in found:
            for name, value in rows[row["id"]].items():
                if row.get(name) is None:
                    kept[table, row["id"], name] += 1
                else:
                    assert row[name] == value, (table, row["id"], name, row[name], value)
    plain = Counter({key: times for key, (times, _) in discards.items()})
    assert plain == kept, f"discards: {_difference(plain, kept)}"
    for (table, row_id, column), (_, value) in discards.items():
        if column != "*":
            assert value == str(story.rows[table][row_id][column])
    if discards:
        found_rows[cased(loader, DISCARDS)] = plain.total()
    _compare_users(story, loader)
    _compare_loads(loader, found_rows)


def _compare_users(story: Story, loader: Loader) -> None:
    if not loader.capabilities.merges:
        return
    found = {row["id"]: row for row in _rows(loader, "users")} if story.users else {}
    assert found.keys() == story.users.keys()
    for user, traits in story.users.items():
        assert {name: found[user].get(name) for name in traits} == traits


def _compare_loads(loader: Loader, rows: dict[str, int]) -> None:
    """`_mainstem_loads` names each load of a table once, and its counts are what is in the tables."""
    found = loader.loads("house", limit=1_000_000)
    twice = [key for key, count in Counter((row.load_id, row.table) for row in found).items() if count > 1]
    assert not twice, f"noted twice: {twice[:5]}"
    counted: Counter[str] = Counter()
    for row in found:
        counted[row.table] += row.rows
    if loader.capabilities.merges:
        # Each load brings users that are there already.
        counted.pop(cased(loader, "users"), None)
        rows = {table: count for table, count in rows.items() if table != cased(loader, "users")}
    assert counted == Counter(rows), f"{LOADS}: {_difference(counted, Counter(rows))}"


def compare_counts(story: Story, counts: dict[CountKey, int]) -> None:
    """See that each accepted event was settled as delivered, once."""
    assert {key.outcome for key in counts} == {"delivered"}
    assert sum(counts.values()) == story.accepted


def _rows(loader: Loader, table: str) -> list[dict[str, Any]]:
    columns = list(loader.fetch_schema()[cased(loader, table)])
    quoted, place = getattr(loader, "quoted"), getattr(loader, "place")  # noqa: B009
    listed = ", ".join(quoted(column) for column in columns)
    found = loader.query(f"SELECT {listed} FROM {place(cased(loader, table))}")
    return [dict(zip(map(str.lower, columns), row, strict=True)) for row in found]


def _count(loader: Loader, table: str) -> int:
    [(count,)] = loader.query(f"SELECT count(*) FROM {getattr(loader, 'place')(cased(loader, table))}")  # noqa: B009
    return int(count)


def _discards(loader: Loader) -> dict[tuple[str, str, str], tuple[int, str]]:
    found: dict[tuple[str, str, str], tuple[int, str]] = {}
    for row in _rows(loader, DISCARDS):
        key = (
            row["table_name"].lower(),
            row["row_id"],
            row["column_name"].lower(),
        )  # Snowflake's are upper case
        found[key] = (found.get(key, (0, ""))[0] + 1, row["column_value"])
    return found


def _difference(found: Counter[Any], expected: Counter[Any]) -> str:
    missing, more = expected - found, found - expected
    return f"missing {missing.total()}: {list(missing)[:5]}, too many {more.total()}: {list(more)[:5]}"
