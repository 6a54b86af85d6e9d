"""RudderStack's contract for Python: what goes in, what comes out, what fails and how it is told."""

from typing import Any

import pytest
from tests.transformations.sandbox_python.conftest import NOW_MS, LoadCode, World

from mainstem.transformations.sandbox.child import CodeWrong
from mainstem.transformations.sandbox.wire import Overflow


def test_a_dict_is_kept_nothing_drops_a_list_expands(load: LoadCode) -> None:
    code = """
def transformEvent(event, metadata):
    if event["n"] == 0:
        return
    if event["n"] == 1:
        return []
    return event if event["n"] == 2 else [event, {"copy": True}]
"""
    results = load(code).run({"n": 0}, {"n": 1}, {"n": 2}, {"n": 3})
    assert results == [
        None,
        None,
        [{"messageId": "m2", "n": 2}],
        [{"messageId": "m3", "n": 3}, {"copy": True}],
    ]


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("'text'", "transformEvent returned a str, not a dict, a list of dicts or None"),
        ("3", "transformEvent returned an int, not a dict, a list of dicts or None"),
        ("(event,)", "transformEvent returned a tuple, not a dict, a list of dicts or None"),
        ("(x for x in [event])", "a generator (it uses yield; return a list instead)"),
        ("[event, None]", "transformEvent returned a list with a NoneType at 1, not only dicts"),
        ("{'a': 1j}", "transformEvent returned what can't be written as JSON: there is a complex in it"),
        ("{'a': '\\ud800'}", "transformEvent returned what can't be written as JSON"),
        ("{(1, 2): 1}", "can't be written as JSON: a tuple can't be a key"),
        ("{None: 1}", "transformEvent returned what can't be written as JSON"),
    ],
)
def test_what_is_no_event_fails_alone(load: LoadCode, returned: str, reason: str) -> None:
    program = load(
        f"def transformEvent(event, metadata):\n    return {returned} if event['bad'] else event\n"
    )
    before, bad, after = program.run({"bad": False}, {"bad": True}, {"bad": False})
    assert reason in bad
    assert isinstance(before, list)
    assert isinstance(after, list)


def test_an_event_that_contains_itself_fails(load: LoadCode) -> None:
    program = load("def transformEvent(event, metadata):\n    event['self'] = event\n    return event\n")
    assert program.one() == "transformEvent returned what can't be written as JSON: it is nested too deeply"


def test_values_of_python_become_json(load: LoadCode) -> None:
    code = """
import collections, datetime, decimal, enum, uuid

class Colour(str, enum.Enum):
    RED = "red"

class Text(str):
    pass

def transformEvent(event, metadata):
    return collections.OrderedDict(
        moment=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        now=datetime.datetime.now(datetime.timezone.utc),
        day=datetime.date(2026, 1, 2),
        today=datetime.date.today(),
        price=decimal.Decimal("1.10"),
        id=uuid.UUID(int=5),
        items={1},
        pair=(1, 2),
        nan=float("nan"),
        big=2**70,
        raw=b"ab",
        colour=Colour.RED,
        text=Text("t"),
        counts=collections.Counter("aab"),
        nested=collections.defaultdict(list, a=[1]),
    )
"""
    assert load(code).one() == {
        "moment": "2026-01-02T03:04:05Z",
        "now": "2026-02-02T02:40:00.123000Z",
        "day": "2026-01-02",
        "today": "2026-02-02",
        "price": 1.1,
        "id": "00000000-0000-0000-0000-000000000005",
        "items": [1],
        "pair": [1, 2],
        "nan": None,
        "big": 2**70,
        "raw": "YWI=",
        "colour": "red",
        "text": "t",
        "counts": {"a": 2, "b": 1},
        "nested": {"a": [1]},
    }


def test_a_throw_fails_that_event_only_and_says_where(load: LoadCode) -> None:
    code = """
def price_of(event):
    return event["properties"]["price"]


def transformEvent(event, metadata):
    if event.get("type") == "fail":
        raise ValueError("no such plan")
    event["price"] = price_of(event)
    return event
"""
    results = load(code).run({"properties": {"price": 3}}, {}, {"type": "fail"}, {"properties": {"price": 4}})
    assert results[0][0]["price"] == 3
    assert results[1] == "price_of, line 3: KeyError: 'properties'"
    assert results[2] == "transformEvent, line 8: ValueError: no such plan"
    assert results[3][0]["price"] == 4


def test_an_error_whose_class_hides_its_name(load: LoadCode) -> None:
    code = """
class Hidden(type):
    def __getattribute__(cls, name):
        raise ValueError

class Odd(Exception, metaclass=Hidden):
    pass

def transformEvent(event, metadata):
    raise Odd("text")
"""
    assert load(code).one() == "transformEvent, line 10: Odd: text"


def test_an_error_whose_text_never_ends(load: LoadCode) -> None:
    code = """
class Odd(Exception):
    def __str__(self):
        while True:
            pass

def transformEvent(event, metadata):
    if event.get("odd"):
        raise Odd
    return event
"""
    odd, after = load(code, timeout_s=0.3).run({"odd": True}, {})
    assert odd == "transformEvent took longer than 0.3 s"
    assert isinstance(after, list)


def test_what_is_no_exception_fails_the_event_too(load: LoadCode) -> None:
    code = """
class Odd(Exception):
    def __str__(self):
        raise RuntimeError

def transformEvent(event, metadata):
    errors = {"exit": SystemExit(3), "stop": KeyboardInterrupt, "odd": Odd(), "long": ValueError("x" * 10**6)}
    raise errors[event["how"]]
"""
    how = ("exit", "stop", "odd", "long")
    exits, stops, odd, long = load(code).run(*({"how": each} for each in how))
    assert exits == "transformEvent, line 8: SystemExit: 3"
    assert stops == "transformEvent, line 8: KeyboardInterrupt"
    assert odd == "transformEvent, line 8: Odd: (its text can't be made)"
    assert len(long) == 500
    assert long.startswith("transformEvent, line 8: ValueError: xxx")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def transformEvent(event, metadata)\n    return event", "line 1: SyntaxError: expected ':'"),
        ("def f():\n\tif 1:\n        return 2\n", "TabError"),
        (
            "import os\ndef transformEvent(event, metadata): return event",
            "line 1: ModuleNotFoundError: no 'os' here",
        ),
        ("x = 1 / 0", "line 1: ZeroDivisionError: division by zero"),
        ("def other(): pass", "it defines neither"),
        ("transformEvent = 3", "it defines neither"),
        (
            "def transformEvent(e, m): pass\ndef transformBatch(e, m): pass",
            "transformEvent and transformBatch",
        ),
        ("from . import x", "relative imports don't work here"),
        ("while True: pass", "took longer than 0.2 s"),
        ("raise SystemExit", "line 1: SystemExit"),
        ("(" * 5000, "line 1: SyntaxError"),
    ],
)
def test_code_that_cannot_be_used_says_why(load: LoadCode, code: str, reason: str) -> None:
    with pytest.raises(CodeWrong) as caught:
        load(code, timeout_s=0.2)
    assert reason in str(caught.value)


def test_async_functions_run(load: LoadCode) -> None:
    code = """
async def enriched(event):
    event["seen"] = True
    return event

async def transformEvent(event, metadata):
    return await enriched(event)
"""
    assert load(code).one() == {"messageId": "m0", "seen": True}


def test_awaiting_what_is_not_there_fails_clearly(load: LoadCode) -> None:
    code = """
class Never:
    def __await__(self):
        yield 1

async def transformEvent(event, metadata):
    await Never()
"""
    assert "awaits something that doesn't exist here" in load(code).one()


def test_every_event_is_a_fresh_copy_and_globals_stay(load: LoadCode) -> None:
    code = """
SEEN = []

def transformEvent(event, metadata):
    SEEN.append(event)
    event["before"] = len(SEEN) - 1
    for other in SEEN[:-1]:
        other["touched"] = True
    return event
"""
    program = load(code)
    assert program.run({"n": 1}, {"n": 1}) == [
        [{"messageId": "m0", "n": 1, "before": 0}],
        [{"messageId": "m1", "n": 1, "before": 1}],
    ]
    assert program.one({"n": 1})["before"] == 2


# ── metadata ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("look", "seen"),
    [
        ("metadata(event)['sourceId']", False),
        ("metadata(event).get('sourceName')", False),
        ("'sourceId' in metadata(event)", False),
        ("metadata(event).get('trackingPlanId')", False),
        ("str(event)", False),
        ("metadata(event)['destinationId']", True),
        ("metadata(event).get('destinationName', '')", True),
        ("metadata(event).get('destinationNothing')", True),
        ("'destinationType' in metadata(event)", True),
        ("dict(metadata(event))", True),
        ("{**metadata(event)}", True),
        ("metadata(event).copy()", True),
        ("list(metadata(event))", True),
        ("sorted(metadata(event).items())", True),
        ("len(metadata(event))", True),
        ("str(metadata(event))", True),
        ("metadata(event) == {}", True),
        ("metadata(event) | {}", True),
        ("{} | metadata(event)", True),
        ("__import__('json').dumps(metadata(event))", True),
        ("__import__('copy').deepcopy(metadata(event))", True),
        ("'%(destinationId)s' % metadata(event)", True),
        ("'{destinationId}'.format_map(metadata(event))", True),
        ("event.update(metadata(event))", True),
        ("(lambda destinationId, **rest: 1)(**metadata(event))", True),
        ("[x for x in map(str, metadata(event).values())]", True),
    ],
)
def test_a_look_at_the_destination_is_noticed(load: LoadCode, look: str, seen: bool) -> None:
    program = load(f"def transformEvent(event, metadata):\n    {look}\n    return event\n")
    assert isinstance(program.one(), dict)
    assert program.done is not None
    assert program.done.saw_destination is seen


def test_metadata_that_is_kept_is_whole_and_noticed(load: LoadCode) -> None:
    program = load(
        "def transformEvent(event, metadata):\n    event['meta'] = metadata(event)\n    return event\n"
    )
    assert program.one()["meta"] == {
        "sourceId": "web",
        "sourceName": "Web shop",
        "destinationId": "hook",
        "destinationName": "Hook",
        "destinationType": "WEBHOOK",
        "messageId": "m0",
    }
    assert program.done is not None
    assert program.done.saw_destination

    program = load(
        "KEPT = []\ndef transformEvent(event, metadata):\n    KEPT.append(metadata(event))\n    return event\n"
    )
    program.one()
    assert program.done is not None
    assert program.done.saw_destination


def test_metadata_has_only_the_keys_that_there_are(load: LoadCode) -> None:
    program = load("def transformEvent(event, metadata):\n    return {'x': metadata(event)['sourceType']}\n")
    assert program.one() == "transformEvent, line 2: KeyError: 'sourceType'"
    program = load(
        "def transformEvent(event, metadata):\n    return {'x': metadata(event)['destinationTag']}\n"
    )
    assert program.one() == "transformEvent, line 2: KeyError: 'destinationTag'"


def test_metadata_of_an_event_whose_id_was_changed(load: LoadCode) -> None:
    code = """
def transformBatch(events, metadata):
    for event in events:
        event["messageId"] += "x"
    return [{**event, "of": metadata(event)["messageId"], "none": metadata({"messageId": "?"})} for event in events]
"""
    # Ids that are no input's: both go to the first.
    first, second = load(code).run({}, {})
    assert [each["of"] for each in first] == ["m0", "m1"]
    assert first[0]["none"] == {}
    assert second is None


# ── log, credentials, geolocation ─────────────────────────────────────────────────────────────────────────────────


def test_logs_are_kept_on_request_bounded_and_without_credentials(load: LoadCode) -> None:
    code = """
def transformEvent(event, metadata):
    log("event", event["n"], {"a": [1, None]}, None)
    print("token", getCredential("token"))
    log("x" * 200)
    return event
"""
    program = load(code, max_log_bytes=100)
    program.run({"n": 1}, {"n": 2}, logs=True)
    assert program.done is not None
    assert program.done.logs[:2] == ('event 1 {"a":[1,null]} None', "token ***")
    assert sum(map(len, program.done.logs)) <= 100
    program.run({"n": 1})
    assert program.done.logs == ()


def test_credentials(load: LoadCode) -> None:
    code = """
def transformEvent(event, metadata):
    return {"all": [getCredential(key) for key in ("token", "empty", "not there", 4)]}
"""
    assert load(code).one() == {"all": ["very-secret", "", None, None]}
    code = "def transformEvent(event, metadata):\n    raise ValueError(getCredential('token'))\n"
    assert load(code).one() == "transformEvent, line 2: ValueError: ***"
    assert "TypeError" in load("def transformEvent(event, metadata):\n    getCredential()\n").one()
    assert "TypeError" in load("def transformEvent(event, metadata):\n    getCredential(None)\n").one()


def test_geolocation(load: LoadCode) -> None:
    code = """
def transformEvent(event, metadata):
    try:
        event["geo"] = geolocation(event["ip"])
    except Exception as error:
        event["error"] = str(error)
    return event
"""
    world = World({"country": "DE"}, ValueError("no address"))
    first, second, third = load(code).run({"ip": "192.0.2.1"}, {"ip": "?"}, {"ip": 3}, world=world)
    assert first[0]["geo"] == {"country": "DE"}
    assert second[0]["error"] == "no address"
    assert third[0]["error"] == "geolocation takes a single string argument, the IP address"
    assert world.asked == [("geolocation", "192.0.2.1"), ("geolocation", "?")]
    assert load(code, geolocation=False).one({"ip": "192.0.2.1"})["error"] == (
        "geolocation is off for this transformation"
    )


# ── transformBatch ────────────────────────────────────────────────────────────────────────────────────────────────


def test_outputs_of_a_batch_go_to_their_inputs(load: LoadCode) -> None:
    code = """
def transformBatch(events, metadata):
    kept = [event for event in reversed(events) if event["n"] != 1]
    return kept + [{"userId": "u2", "sum": 3}, {"anonymousId": "a3"}, {"nobody": True}]
"""
    results = load(code).run(
        {"n": 0, "userId": "u0"},
        {"n": 1, "userId": "u1"},
        {"n": 2, "userId": "u2"},
        {"n": 3, "anonymousId": "a3"},
    )
    assert [[each.get("n", each) for each in result] if result else result for result in results] == [
        [0, {"nobody": True}],
        None,
        [2, {"userId": "u2", "sum": 3}],
        [3, {"anonymousId": "a3"}],
    ]


def test_one_bad_event_costs_the_batch_nothing(load: LoadCode) -> None:
    code = """
def transformBatch(events, metadata):
    return [{**event, "price": event["price"] * 2} for event in events]
"""
    results = load(code).run(*({"price": n} if n != 3 else {} for n in range(7)))
    assert results[3] == "transformBatch, line 3: KeyError: 'price'" or results[3].endswith(
        "KeyError: 'price'"
    )
    assert [result[0]["price"] for number, result in enumerate(results) if number != 3] == [
        0,
        2,
        4,
        8,
        10,
        12,
    ]


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("None", [None, None]),
        ("[]", [None, None]),
        ("events[0]", "transformBatch returned a dict, not a list of dicts or None"),
        ("[1]", "transformBatch returned a list with an int at 0, not only dicts"),
    ],
)
def test_what_a_batch_may_return(load: LoadCode, returned: str, expected: Any) -> None:
    results = load(f"def transformBatch(events, metadata):\n    return {returned}\n").run({}, {})
    assert results == (expected if isinstance(expected, list) else [expected, expected])


def test_events_that_the_code_takes_out_of_its_list_are_dropped(load: LoadCode) -> None:
    code = """
def transformBatch(events, metadata):
    taken = events.pop(0)
    events[0]["of"] = metadata(events[0])["messageId"]
    return events
"""
    assert load(code).run({}, {}) == [None, [{"messageId": "m1", "of": "m1"}]]


# ── bounds ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_loop_fails_its_event_and_the_rest_of_the_batch_runs(load: LoadCode) -> None:
    code = """
def transformEvent(event, metadata):
    while event.get("loop"):
        try:
            pass
        except Exception:
            pass
    return event
"""
    results = load(code, timeout_s=0.3).run({}, {"loop": True}, {}, {})
    assert results[1] == "transformEvent took longer than 0.3 s"
    assert [type(result) for result in results] == [list, str, list, list]


def test_a_regex_that_never_ends_is_ended(load: LoadCode) -> None:
    code = """
import re
def transformEvent(event, metadata):
    return {"found": bool(re.match("(a+)+$", "a" * 40 + "b"))}
"""
    assert load(code, timeout_s=0.2).one() == "transformEvent took longer than 0.2 s"


def test_a_batch_of_slow_events_is_run_in_smaller_parts(load: LoadCode) -> None:
    code = """
import time
def transformEvent(event, metadata):
    time.sleep(0.08)
    return event
"""
    program = load(code, timeout_s=0.3)
    assert isinstance(program.raw([{}] * 10), Overflow)
    assert isinstance(program.one(), dict)


def test_a_batch_function_that_takes_too_long(load: LoadCode) -> None:
    code = """
def transformBatch(events, metadata):
    while any(event.get("loop") for event in events):
        pass
    return events
"""
    program = load(code, timeout_s=0.2)
    assert isinstance(program.raw([{}, {"loop": True}]), Overflow)
    assert program.one({"loop": True}) == "transformBatch took longer than 0.2 s"
    assert isinstance(program.one({}), dict)


def test_recursion_fails_its_event(load: LoadCode) -> None:
    code = """
def down(n):
    return down(n + 1)

def transformEvent(event, metadata):
    return down(0) if event.get("deep") else event
"""
    before, deep, after = load(code).run({}, {"deep": True}, {})
    assert deep == "down, line 3: RecursionError: maximum recursion depth exceeded"
    assert isinstance(before, list)
    assert isinstance(after, list)


def test_huge_results(load: LoadCode) -> None:
    code = "def transformEvent(event, metadata):\n    return {'x': 'x' * event['size']}\n"
    program = load(code, max_result_bytes=1000, max_answer_bytes=2000)
    assert program.run({"size": 2000}, {"size": 10}) == [
        "transformEvent returned more than 1,000 bytes for one event",
        [{"x": "x" * 10}],
    ]
    assert isinstance(program.raw([{"size": 900}] * 3), Overflow)


def test_what_reads_machine_and_files_is_not_there(load: LoadCode) -> None:
    for name in ("open", "eval", "exec", "compile", "input", "breakpoint"):
        reason = load(f"def transformEvent(event, metadata):\n    {name}('1')\n").one()
        assert reason == f"transformEvent, line 2: NameError: name '{name}' is not defined"


def test_the_clock_is_the_events(load: LoadCode) -> None:
    program = load(
        "import time\ndef transformEvent(event, metadata):\n    return {'t': time.time_ns() // 10**6}\n"
    )
    assert program.run({}, {}) == [[{"t": NOW_MS}], [{"t": NOW_MS + 1}]]
