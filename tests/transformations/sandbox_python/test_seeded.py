"""Random numbers and clocks come from the event: the same event gives the same bytes, in any process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.transformations.sandbox_python.conftest import LoadCode

import mainstem

ENVIRONMENT = {"TZ": "UTC", "PYTHONPATH": str(Path(mainstem.__file__).parents[1])}
CHANCE = """
import random, secrets, uuid
from random import randint, Random, SystemRandom

def transformEvent(event, metadata):
    words = list("abcdef")
    random.shuffle(words)
    return {
        "numbers": [random.random(), randint(1, 100), random.gauss(0, 1), random.choice("xyz")],
        "sample": random.sample("abcdef", 2),
        "own": [Random().random(), Random(3).random(), SystemRandom().random()],
        "secrets": [secrets.token_hex(8), secrets.randbelow(50), secrets.choice("pq"), secrets.token_urlsafe(4)],
        "uuids": [str(uuid.uuid4()), str(uuid.uuid1()), str(uuid.uuid5(uuid.NAMESPACE_DNS, "x"))],
        "words": words,
    }
"""


def test_chance_repeats_for_an_event_and_differs_between_events(load: LoadCode) -> None:
    first = load(CHANCE).run({}, {}, {})
    second = load(CHANCE).run({}, {}, {})
    assert first == second
    assert first[0] != first[1]
    for part in ("numbers", "secrets", "words"):
        assert first[0][0][part] != first[1][0][part], part
    uuids = first[0][0]["uuids"]
    assert [each[14] for each in uuids] == ["4", "1", "5"]


def test_an_event_repeats_whatever_ran_before_it(load: LoadCode) -> None:
    program = load(CHANCE)
    alone = program.one({"messageId": "same"})
    among = program.run({}, {}, {"messageId": "same"})
    # The clock differs by its place; the random numbers don't.
    assert among[2][0]["numbers"] == alone["numbers"]
    assert program.one({"messageId": "same"}, seed="other ")["numbers"] != alone["numbers"]


def test_chance_that_is_not_seeded(load: LoadCode) -> None:
    results = [load(CHANCE, seeded=False).one() for _ in range(2)]
    for part in ("numbers", "uuids", "secrets"):
        assert results[0][part] != results[1][part], part


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("time.time()", 1770000000.123),
        ("time.time_ns()", 1770000000123000000),
        ("time.monotonic() == time.perf_counter()", True),
        ("time.gmtime()[:6]", [2026, 2, 2, 2, 40, 0]),
        ("time.localtime().tm_hour", 2),
        ("time.strftime('%Y-%m-%d')", "2026-02-02"),
        ("time.strftime('%Y', time.gmtime(0))", "1970"),
        ("time.ctime()", "Mon Feb  2 02:40:00 2026"),
        ("datetime.datetime.now()", "2026-02-02T02:40:00.123000"),
        ("datetime.datetime.utcnow()", "2026-02-02T02:40:00.123000"),
        ("datetime.datetime.today().isoformat()", "2026-02-02T02:40:00.123000"),
        (
            "datetime.datetime.now(zoneinfo.ZoneInfo('Asia/Tokyo')).isoformat()",
            "2026-02-02T11:40:00.123000+09:00",
        ),
        ("datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)", "2026-02-01T02:40:00.123000Z"),
        ("datetime.date.today()", "2026-02-02"),
        ("datetime.datetime.fromtimestamp(0)", "1970-01-01T00:00:00"),
        ("datetime.date.fromtimestamp(0)", "1970-01-01"),
        ("isinstance(datetime.datetime.now(), datetime.date)", True),
        ("issubclass(datetime.datetime, datetime.date)", True),
        ("isinstance(datetime.datetime.now() + datetime.timedelta(1), datetime.datetime)", True),
        ("isinstance(datetime.date.today(), datetime.datetime)", False),
        ("datetime.datetime.strptime('2026-01-02', '%Y-%m-%d') < datetime.datetime.now()", True),
        ("isinstance(datetime.datetime.fromisoformat('2026-01-02'), datetime.datetime)", True),
        ("datetime.datetime.now().strftime('%d/%m')", "02/02"),
        ("datetime.datetime.now().timestamp()", 1770000000.123),
        ("copy.deepcopy(datetime.datetime.now()) == datetime.datetime.now()", True),
        ("isinstance(datetime.datetime(2026, 1, 1), type('Own', (datetime.datetime,), {}))", False),
    ],
)
def test_clocks_stand_at_the_events_time(load: LoadCode, expression: str, value: Any) -> None:
    code = f"def transformEvent(event, metadata):\n    return {{'v': {expression}}}\n"
    assert load(f"import copy, datetime, time, zoneinfo\n{code}").one() == {"v": value}


def test_a_clock_that_is_not_seeded(load: LoadCode) -> None:
    code = "import time\ndef transformEvent(event, metadata):\n    return {'v': time.time()}\n"
    assert load(code, seeded=False).one()["v"] > 1_770_000_000.2


def test_outside_of_functions_it_is_1970(load: LoadCode) -> None:
    code = """
import datetime, random
AT, X = datetime.datetime.now().isoformat(), random.random()
def transformEvent(event, metadata):
    return {"at": AT, "x": X}
"""
    first, second = load(code).one(), load(code).one({"messageId": "other"}, seed="s")
    assert first == second
    assert first["at"] == "1970-01-01T00:00:00"


def test_the_interpreters_own_modules_stay_as_they_are(load: LoadCode) -> None:
    import datetime
    import random
    import time

    before = (time.time, datetime.datetime, random.random, random.Random)
    load(CHANCE).one()
    assert before == (time.time, datetime.datetime, random.random, random.Random)


def test_dateutil_and_statistics_have_them_too() -> None:
    # In a process of its own: it changes these modules for good.
    code = """
from mainstem.transformations.sandbox.python import imports
from mainstem.transformations.sandbox.python.seeded import Surroundings
imports.warm()
surroundings = Surroundings(seeded=True)
surroundings.reach_others()
surroundings.set("", 1_770_000_000_000)
import statistics
import dateutil.parser, dateutil.relativedelta, dateutil.rrule, dateutil.tz, dateutil.utils
now = surroundings.modules["datetime"].datetime.now()
print(dateutil.parser.parse("10:30"))
print(dateutil.utils.today())
print(now + dateutil.relativedelta.relativedelta(months=1))
print(dateutil.rrule.rrule(dateutil.rrule.DAILY, count=1)[0])
print(dateutil.parser.isoparse("2026-01-02T03:04:05Z").astimezone(dateutil.tz.gettz("America/New_York")))
print(isinstance(dateutil.parser.parse("2026-01-01"), surroundings.modules["datetime"].datetime))
surroundings.uses_random()
samples = statistics.NormalDist().samples(3)
surroundings.set("", 0)
print(samples == statistics.NormalDist().samples(3))
"""
    printed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **ENVIRONMENT},
    )
    assert printed.stdout.splitlines() == [
        "2026-02-02 10:30:00",
        "2026-02-02 00:00:00",
        "2026-03-02 02:40:00",
        "2026-02-02 02:40:00",
        "2026-01-01 22:04:05-05:00",
        "True",
        "True",
    ]
