"""docs/reference/conformance.md: the open vectors' results, written by `make conformance`, held current by a test."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mainstem.destinations import catalog
from tests.conformance.run import ROOT, Line

PAGE: Final = ROOT / "docs" / "reference" / "conformance.md"
EXPLAINED: Final = ROOT / "tests" / "conformance" / "explained.json"
FIRST_WAVE: Final = (
    # analytics
    *("ga4", "am", "mp", "posthog", "heap", "indicative", "keen", "kissmetrics"),
    # advertising
    *("facebook_pixel", "facebook_conversions", "fb_custom_audience", "google_adwords_enhanced_conversions"),
    *("google_adwords_offline_conversions", "google_adwords_remarketing_lists", "tiktok_ads"),
    *("snapchat_conversion", "pinterest_tag", "reddit", "linkedin_ads", "criteo_audience"),
    # CRM and marketing
    *("mailchimp", "salesforce", "marketo", "hs", "braze", "klaviyo", "intercom", "customerio", "iterable"),
    *("sendgrid", "active_campaign", "moengage", "clevertap", "webengage"),
    # support, chat, attribution, product
    *("zendesk", "slack", "discord", "af", "adj", "branch", "singular", "statsig", "optimizely_fullstack"),
    *("launchdarkly_audience", "algolia"),
    # infrastructure
    *("webhook", "http", "segment", "kafka", "kinesis", "googlepubsub", "eventbridge", "redis"),
    *("confluent_cloud", "azure_event_hub"),
)

_INTRODUCTION: Final = """\
# Conformance

<!-- Generated. Write it again with: make conformance -->

Companies that move from RudderStack expect that the same events become the same requests. This is how far that holds:
cases of (event, settings) and the requests that RudderStack's transformer makes of them, taken as data from its public
tests, answered by Mainstem's own mapping, batching and look-ups. A case passes when the requests are equal, and when
the events that fail do so with the same status; wording does not count. *replay* cases have look-ups, answered by
recordings.

Where Mainstem does otherwise on purpose, the [decision](../decisions/0008-where-mappings-differ.md) says why, case by
case.

| Destination | Passed | of | |
|---|---|---|---|
"""

_READING: Final = """\
## Reading answers

What a vendor's answer means for the events in a request: delivered, tried again, slowed down, or refused for good.
Cases of RudderStack's delivery (a request, the recorded answer, and what became of each event), and what Mainstem's
reading of the same answer makes of them.

*Agreeing*: the same for every event. A batch that is refused as a whole counts as tried again, for
[it is, in halves](../concepts/delivery.md#batches). *Stopped for people*: RudderStack aborts the event, while
Mainstem's destination waits and says why; it is about credentials or permissions, so nothing is lost
([decision 5](../decisions/0005-outages-do-not-kill-events.md)). *Other*: told below, case by case.

RudderStack makes some requests only when it delivers (it searches for an id first, or makes a job and runs it); there,
the answer to the last of them is read.

| Destination | Agreeing | Stopped for people | Other | of |
|---|---|---|---|---|
"""


def page(
    results: Mapping[tuple[str, str], Line],
    readings: Mapping[tuple[str, str], Line],
    explained: Mapping[str, str],
) -> str:
    """Return the page.

    Args:
        results: of `run`.
        readings: of `run_deliveries`.
    """
    told = ["", "## Cases that do not pass", "", *_reasons(results, explained)]
    parts = [_INTRODUCTION, "\n".join([*_mappings(results), *told, "", ""])]
    told = ["", "### Cases that are read otherwise", "", *_reasons(readings, explained)]
    parts += [_READING, "\n".join([*_readings(readings), *told, ""])]
    return "".join(parts)


def _reasons(results: Mapping[tuple[str, str], Line], explained: Mapping[str, str]) -> list[str]:
    failing = [
        f"- `{vector_id}` ({title}): {explained.get(vector_id, 'not explained')}"
        for line in results.values()
        for vector_id, title, _ in line.failures
    ]
    return sorted(failing) or ["None."]


def _title(name: str) -> str:
    spec = catalog.find_spec(name)
    return f"[{spec.title}](destinations/{name}.md)" if spec is not None else name


def _readings(results: Mapping[tuple[str, str], Line]) -> list[str]:
    rows: list[str] = []
    sums = [0, 0, 0, 0]
    for (name, _), line in sorted(results.items()):
        counts = [line.passed, line.deliberate, len(line.failures), line.total]
        sums = [one + other for one, other in zip(sums, counts, strict=True)]
        rows.append(f"| {_title(name)} | " + " | ".join(map(str, counts)) + " |")
    rows.append("| **all** | " + " | ".join(f"**{count}**" for count in sums) + " |")
    return rows


def _mappings(results: Mapping[tuple[str, str], Line]) -> list[str]:
    rows: list[str] = []
    passed = total = 0
    for name in sorted({name for name, _ in results}):
        lines = {feature: line for (each, feature), line in results.items() if each == name}
        ok, of = sum(line.passed for line in lines.values()), sum(line.total for line in lines.values())
        passed, total = passed + ok, total + of
        features = ", ".join(
            f"{feature} {line.passed}/{line.total}" for feature, line in sorted(lines.items())
        )
        rows.append(f"| {_title(name)} | {ok} | {of} | {features} |")
    share = 100 * passed / max(1, total)
    rows.append(f"| **all** | **{passed}** | **{total}** | **{share:.1f} %** |")
    return rows


def write(path: Path, text: str) -> None:
    """Write the page."""
    path.write_text(text, "utf-8")
