"""What can be imported, what can't and how that is told; libraries."""

import pytest
from tests.transformations.sandbox_python.conftest import LoadCode

from mainstem.transformations.sandbox.child import CodeWrong
from mainstem.transformations.sandbox.python.imports import MODULES


def test_everything_on_the_list_can_be_imported(load: LoadCode) -> None:
    names = sorted(
        {*MODULES, "datetime", "io", "random", "requests", "secrets", "time", "urllib", "uuid"}
        - {"__future__"}
    )
    lines = "\n".join(f"import {name}" for name in names)
    used = "[" + ", ".join(names) + "]"
    function = f"def transformEvent(event, metadata):\n    return {{'n': len({used})}}\n"
    code = f"from __future__ import annotations\n{lines}\n{function}"
    assert load(code).one() == {"n": len(names)}


@pytest.mark.parametrize(
    ("line", "use", "value"),
    [
        ("import urllib.parse", "urllib.parse.quote('a b')", "a%20b"),
        ("from urllib.parse import urlparse", "urlparse('https://x.example/p').path", "/p"),
        ("from urllib import parse", "parse.unquote('%20')", " "),
        ("import urllib.parse as p", "p.quote('/')", "/"),
        ("import collections.abc", "issubclass(dict, collections.abc.Mapping)", True),
        ("from dateutil import parser", "parser.parse('2026-01-02').day", 2),
        (
            "import dateutil.parser",
            "dateutil.parser.parse('2026-01-02T03:04:05Z').isoformat()",
            "2026-01-02T03:04:05+00:00",
        ),
        ("from dateutil.relativedelta import relativedelta", "relativedelta(days=1).days", 1),
        ("from dateutil import tz", "tz.gettz('Nowhere/Land')", None),
        ("import base64", "issubclass(base64.binascii.Error, Exception)", True),
        ("import hashlib", "hashlib.sha256(b'').hexdigest()[:6]", "e3b0c4"),
        (
            "import hmac",
            "hmac.new(b'Jefe', b'what do ya want for nothing?', 'sha256').hexdigest()[:6]",
            "5bdcc1",
        ),
        ("from hashlib import *", "md5(b'').hexdigest()[:6]", "d41d8c"),
        ("import io", "io.StringIO('a').read()", "a"),
        ("import zoneinfo", "zoneinfo.ZoneInfo('Europe/Berlin').key", "Europe/Berlin"),
        ("import json as j", "j.loads('[1]')", [1]),
        ("", "'ü'.encode('idna').decode()", "xn--tda"),
        ("", "'€'.encode('cp1252').hex()", "80"),
        ("import csv, io", "next(csv.reader(io.StringIO('a,b')))", ["a", "b"]),
        ("import decimal", "str(decimal.Decimal('0.1') + decimal.Decimal('0.2'))", "0.3"),
    ],
)
def test_modules_work(load: LoadCode, line: str, use: str, value: object) -> None:
    assert load(f"{line}\ndef transformEvent(event, metadata):\n    return {{'v': {use}}}\n").one() == {
        "v": value
    }


@pytest.mark.parametrize(
    "name", ["os", "sys", "subprocess", "ctypes", "threading", "asyncio", "builtins", "importlib"]
)
def test_others_cannot_and_the_reason_says_what_can(load: LoadCode, name: str) -> None:
    reason = load(f"def transformEvent(event, metadata):\n    import {name}\n    return event\n").one()
    assert reason.startswith(f"transformEvent, line 2: ModuleNotFoundError: no '{name}' here. Modules: abc, ")
    for module in ("base64", "datetime", "json", "requests", "zoneinfo"):
        assert module in reason
    assert not reason.endswith("…")


@pytest.mark.parametrize("name", ["urllib.request", "http.client", "socket"])
def test_who_wants_http_is_led_to_requests(load: LoadCode, name: str) -> None:
    with pytest.raises(CodeWrong, match="'requests'"):
        load(f"import {name}")


def test_io_opens_no_files(load: LoadCode) -> None:
    assert (
        "AttributeError"
        in load("import io\ndef transformEvent(event, metadata):\n    io.open('/etc/passwd')\n").one()
    )


def test_dataclasses_work_with_postponed_annotations(load: LoadCode) -> None:
    code = """
from __future__ import annotations
from dataclasses import dataclass, asdict
from typing import NamedTuple

@dataclass
class Plan:
    name: str = "free"

class Pair(NamedTuple):
    a: int

def transformEvent(event, metadata):
    return {**asdict(Plan()), "pair": Pair(1), "plan": Plan()}
"""
    assert load(code).one() == {"name": "free", "pair": [1], "plan": {"name": "free"}}


def test_libraries(load: LoadCode) -> None:
    libraries = {
        "money": "import rates\nfrom decimal import Decimal\ndef euros(x):\n    return Decimal(x) * rates.EUR\n",
        "rates": "from decimal import Decimal\nEUR = Decimal('0.5')\nCOUNT = []\nCOUNT.append(1)\n",
        "json": "def mine():\n    return True\n",
    }
    code = """
import json
import money
from money import euros
from rates import COUNT

def transformEvent(event, metadata):
    return {"euros": euros(3), "through": money.rates.COUNT is COUNT, "once": len(COUNT), "mine": json.mine()}
"""
    assert load(code, libraries).one() == {"euros": 1.5, "through": True, "once": 1, "mine": True}


def test_faults_in_libraries_say_so(load: LoadCode) -> None:
    code = "from maths import sub\ndef transformEvent(event, metadata):\n    return {'x': sub(1)}\n"
    library = "def sub(a):\n    return a - b\n"
    assert load(code, {"maths": library}).one() == (
        "sub in library maths, line 2: NameError: name 'b' is not defined"
    )
    with pytest.raises(CodeWrong, match=r"^library maths, line 1: SyntaxError"):
        load(code, {"maths": "def sub(:"})
    with pytest.raises(CodeWrong, match=r"zoneinfo\. Libraries: maths$"):
        load("import math_s", {"maths": library})


def test_a_library_that_fails_at_first_is_run_again(load: LoadCode) -> None:
    code = """
def transformEvent(event, metadata):
    import shaky
    return event
"""
    program = load(code, {"shaky": "raise ValueError('not now')"})
    assert program.run({}, {}) == ["library shaky, line 1: ValueError: not now"] * 2
