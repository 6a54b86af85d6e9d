"""The same people and the same bots as everywhere else."""

import pytest

from mainstem.events.names import name_matcher
from mainstem.pipeline.outcome import Filtered
from mainstem.pipeline.steps.match_filters import compile_filter
from mainstem.transformations.base import About, Dropped, Kept
from mainstem.transformations.ready.base import NO_TOOLS
from mainstem.transformations.ready.catalog import find_spec, validate_settings
from mainstem.transformations.ready.choose import domain_of
from mainstem.workspace.model import Filter
from tests.pipeline.world import event


@pytest.mark.parametrize("percent", [1.0, 10.0, 50.0])
def test_the_sample_is_that_of_the_filters_of_connections(percent: float) -> None:
    spec = find_spec("sample_users")
    assert spec is not None
    change = spec.make(validate_settings("sample_users", {"percent": percent}).config, NO_TOOLS)
    (step,) = compile_filter(Filter(name="f", sample_percent=percent))
    passed = 0
    for number in range(1000):
        ids = {"userId": f"u-{number}"} if number % 2 else {"userId": None, "anonymousId": f"a-{number}"}
        given = event({**ids, "messageId": f"m-{number}"})
        about = About(given.source_id, given.message_id, given.key, given.received_at_ms)
        result = change(given.message, about)
        by_filter = step(given)
        assert result == (Dropped() if isinstance(by_filter, Filtered) else Kept((given.message,)))
        passed += isinstance(result, Kept)
    # Five standard deviations; the hash is fixed, so this never flickers.
    assert passed == pytest.approx(percent * 10, abs=80)


def test_patterns_are_those_of_the_filters_of_connections() -> None:
    spec = find_spec("keep_event_names")
    assert spec is not None
    names = ("Order *", "*Viewed", "Signed Up", "a*b*c")
    change = spec.make(validate_settings("keep_event_names", {"names": names}).config, NO_TOOLS)
    matches = name_matcher(names)
    for name in ("Order Completed", "Order", "Page Viewed", "Signed Up", "Signed Up ", "axbxc", "abcx", ""):
        kept = change({"type": "track", "event": name}, About("s", "m", "s:u:1", 0)) != Dropped()
        assert kept is matches(name)


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("jane@example.com", "example.com"),
        ("Jane Doe <jane@Example.COM>", "example.com"),
        ("jane@example.com.", "example.com"),
        ("jane@bücher.example", "xn--bcher-kva.example"),
        ("jane@", ""),
        ("jane", ""),
        ("jane@" + "ü" * 100 + ".example", "ü" * 100 + ".example"),
        ("jane@[192.0.2.1]", "[192.0.2.1]"),
    ],
)
def test_domains(address: str, domain: str) -> None:
    assert domain_of(address) == domain
