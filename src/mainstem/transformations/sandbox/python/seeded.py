"""Random numbers and the clock inside the sandbox, taken from the event, so that a replay repeats to the byte.

`Surroundings` holds the modules that transformations see as `random`, `secrets`, `time`, `datetime` and `uuid`. They
are copies: the interpreter's own stay as they are. With `seeded` off, the interpreter's own are handed out.

Per event (`transformBatch`: per batch, from its first event):

* `random`, `secrets`, `uuid.uuid1` and `uuid.uuid4` follow from the event's seed;
* every clock stands still at the event's `receivedAt`: `time`, `datetime.now`, `today` …; the time zone is UTC;
* `time.sleep` really waits.

Code outside of functions runs once, before any event: there the seed is empty and the clock stands at 1970-01-01.
"""

import datetime as real_datetime
import importlib
import random as real_random
import secrets as real_secrets
import time as real_time
import uuid as real_uuid
from collections.abc import Sequence
from hashlib import blake2b
from types import ModuleType
from typing import Any, Final

MODULES: Final = ("datetime", "random", "secrets", "time", "uuid")
_GREGORIAN_100NS: Final = 0x01B21DD213814000
"""100 ns steps from 1582-10-15, where UUID version 1 begins, to 1970 (RFC 9562)."""


class Surroundings:
    """One process's randomness and clock; `modules` are what the code imports."""

    def __init__(self, *, seeded: bool) -> None:
        self._now_ms = 0
        self._seed = ""
        self._used = False
        self.modules: dict[str, ModuleType] = {}
        if seeded:
            for name, module in self._copies():
                self.modules[name] = module
        else:
            self.modules = {name: importlib.import_module(name) for name in MODULES}
        self.seeded = seeded

    def set(self, seed: str, now_ms: int) -> None:
        """An event begins."""
        self._now_ms = now_ms
        self._seed = seed
        if self._used:
            self.reseed()

    def uses_random(self) -> None:
        """The code imported something random: from now on each event seeds it. What isn't imported costs nothing."""
        if not self._used:
            self._used = True
            self.reseed()

    def reseed(self) -> None:
        """Begin the random numbers of the event anew."""
        if self.seeded:
            digest = blake2b(self._seed.encode("utf-8", "replace"), digest_size=8).digest()
            self._generator.seed(int.from_bytes(digest, "big"))

    def reach_others(self) -> None:
        """Let other modules have the event's clock and chance too: dateutil's default date, `utils.today` and
        `rrule`'s start; `statistics.NormalDist.samples`.

        Changes these modules for the whole process.
        """
        if self.seeded:
            module: Any = self.modules["datetime"]
            for name, value in (
                ("dateutil.parser._parser", module),
                ("dateutil.rrule", module),
                ("dateutil.utils", module.datetime),
            ):
                vars(importlib.import_module(name))["datetime"] = value
            vars(importlib.import_module("statistics"))["random"] = self.modules["random"]

    def _copies(self) -> Sequence[tuple[str, ModuleType]]:
        random = self._random()
        return (
            ("random", random),
            ("secrets", self._secrets(random)),
            ("time", self._time()),
            ("datetime", self._datetime()),
            ("uuid", self._uuid()),
        )

    def _random(self) -> ModuleType:
        module = _copy(real_random)
        generator = self._generator = real_random.Random(0)  # noqa: S311 - repeatable is what it is for

        class Random(real_random.Random):
            """Without a seed of its own, it takes one from the event."""

            def __init__(self, x: Any = None) -> None:
                super().__init__(generator.getrandbits(64) if x is None else x)

            def seed(self, a: Any = None, version: int = 2) -> None:
                super().seed(generator.getrandbits(64) if a is None else a, version)

        class SystemRandom(Random):
            """The machine's randomness is not repeatable: this follows from the event too."""

            def __init__(self, x: Any = None) -> None:
                super().__init__(None)

            def seed(self, *args: Any, **kwargs: Any) -> None:
                real_random.Random.seed(self, generator.getrandbits(64))

        def seed(a: Any = None, version: int = 2) -> None:
            if a is None:
                self.reseed()
            else:
                generator.seed(a, version)

        for name in dir(real_random):
            # The module's functions are methods of a hidden generator; here, of ours.
            if getattr(getattr(real_random, name), "__self__", None).__class__ is real_random.Random:
                setattr(module, name, getattr(generator, name))
        for name, value in (
            ("Random", Random),
            ("SystemRandom", SystemRandom),
            ("seed", seed),
            ("_inst", generator),
        ):
            setattr(module, name, value)
        return module

    def _secrets(self, random: ModuleType) -> ModuleType:
        module = _copy(real_secrets)
        generator = self._generator

        def token_bytes(nbytes: int | None = None) -> bytes:
            return generator.randbytes(32 if nbytes is None else nbytes)

        def token_hex(nbytes: int | None = None) -> str:
            return token_bytes(nbytes).hex()

        def token_urlsafe(nbytes: int | None = None) -> str:
            encoded: bytes = real_secrets.base64.urlsafe_b64encode(token_bytes(nbytes))  # type: ignore[attr-defined]
            return encoded.rstrip(b"=").decode("ascii")

        def randbelow(exclusive_upper_bound: int) -> int:
            if exclusive_upper_bound <= 0:
                raise ValueError("Upper bound must be positive.")
            return generator.randrange(exclusive_upper_bound)

        for name, value in (
            ("choice", generator.choice),
            ("randbits", generator.getrandbits),
            ("randbelow", randbelow),
            ("token_bytes", token_bytes),
            ("token_hex", token_hex),
            ("token_urlsafe", token_urlsafe),
            ("SystemRandom", random.SystemRandom),
            ("_sysrand", generator),
        ):
            setattr(module, name, value)
        return module

    def _time(self) -> ModuleType:
        module = _copy(real_time)

        def now_ns() -> int:
            return self._now_ms * 1_000_000

        def now_s() -> float:
            return self._now_ms / 1000

        def gmtime(secs: float | None = None) -> real_time.struct_time:
            return real_time.gmtime(now_s() if secs is None else secs)

        def ctime(secs: float | None = None) -> str:
            return real_time.asctime(gmtime(secs))

        def asctime(t: Any = None) -> str:
            return real_time.asctime(gmtime() if t is None else t)

        def strftime(format: str, t: Any = None) -> str:  # noqa: A002 - the function's own argument
            return real_time.strftime(format, gmtime() if t is None else t)

        for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
            setattr(module, name, now_s)
            setattr(module, f"{name}_ns", now_ns)
        for name, value in (
            ("gmtime", gmtime),
            ("localtime", gmtime),
            ("ctime", ctime),
            ("asctime", asctime),
            ("strftime", strftime),
            ("timezone", 0),
            ("altzone", 0),
            ("daylight", 0),
            ("tzname", ("UTC", "UTC")),
        ):
            setattr(module, name, value)
        return module

    def _datetime(self) -> ModuleType:
        module = _copy(real_datetime)
        utc = real_datetime.UTC

        class DateType(type):
            # Dates that were made elsewhere (by `strptime`, by dateutil) are dates too. Classes that the code
            # derives are what they always are.
            def __instancecheck__(cls, instance: object) -> bool:
                if cls is date or cls is datetime:
                    return isinstance(instance, cls.__mro__[1])
                return super().__instancecheck__(instance)

            def __subclasscheck__(cls, subclass: type) -> bool:
                if cls is date or cls is datetime:
                    return issubclass(subclass, cls.__mro__[1])
                return super().__subclasscheck__(subclass)

        class date(real_datetime.date, metaclass=DateType):  # noqa: N801 - stands for the class of that name
            @classmethod
            def today(cls) -> "date":
                return cls.fromtimestamp(self._now_ms / 1000)

            @classmethod
            def fromtimestamp(cls, timestamp: float) -> "date":
                day = real_datetime.datetime.fromtimestamp(timestamp, utc)
                return cls(day.year, day.month, day.day)

        class datetime(real_datetime.datetime, metaclass=DateType):  # noqa: N801 - stands for the class of that name
            @classmethod
            def now(cls, tz: real_datetime.tzinfo | None = None) -> "datetime":
                moment = cls.fromtimestamp(self._now_ms / 1000, utc)
                return moment.replace(tzinfo=None) if tz is None else moment.astimezone(tz)

            @classmethod
            def utcnow(cls) -> "datetime":
                return cls.now()

            @classmethod
            def today(cls) -> "datetime":
                return cls.now()

            @classmethod
            def fromtimestamp(cls, timestamp: float, tz: real_datetime.tzinfo | None = None) -> "datetime":
                if tz is None:
                    return super().fromtimestamp(timestamp, utc).replace(tzinfo=None)
                return super().fromtimestamp(timestamp, tz)

        for each in (date, datetime):
            each.__module__ = "datetime"
            each.__qualname__ = each.__name__
            setattr(module, each.__name__, each)
        return module

    def _uuid(self) -> ModuleType:
        module = _copy(real_uuid)
        generator = self._generator

        def uuid4() -> real_uuid.UUID:
            return real_uuid.UUID(int=generator.getrandbits(128), version=4)

        def getnode() -> int:
            # Random with the multicast bit, as RFC 9562 has it; the machine's own address is nobody's business.
            return generator.getrandbits(48) | (1 << 40)

        def uuid1(node: int | None = None, clock_seq: int | None = None) -> real_uuid.UUID:
            steps = self._now_ms * 10_000 + _GREGORIAN_100NS
            sequence = generator.getrandbits(14) if clock_seq is None else clock_seq
            return real_uuid.UUID(
                fields=(
                    steps & 0xFFFFFFFF,
                    (steps >> 32) & 0xFFFF,
                    (steps >> 48) & 0x0FFF,
                    (sequence >> 8) & 0x3F,
                    sequence & 0xFF,
                    getnode() if node is None else node,
                ),
                version=1,
            )

        for name, value in (("uuid4", uuid4), ("uuid1", uuid1), ("getnode", getnode)):
            setattr(module, name, value)
        return module


def _copy(module: ModuleType) -> ModuleType:
    copy = ModuleType(module.__name__, module.__doc__)
    copy.__dict__.update({name: value for name, value in vars(module).items() if name != "__spec__"})
    return copy
