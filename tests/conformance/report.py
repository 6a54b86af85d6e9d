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


def page(results: Mapping[tuple[str, str], Line], explained: Mapping[str, str]) -> str:
    """Return the page."""
    rows: list[str] = []
    passed = total = 0
    for name in sorted({name for name, _ in results}):
        lines = {feature: line for (each, feature), line in results.items() if each == name}
        ok, of = sum(line.passed for line in lines.values()), sum(line.total for line in lines.values())
        passed, total = passed + ok, total + of
        spec = catalog.find_spec(name)
        title = f"[{spec.title}](destinations/{name}.md)" if spec is not None else name
        features = ", ".join(
            f"{feature} {line.passed}/{line.total}" for feature, line in sorted(lines.items())
        )
        rows.append(f"| {title} | {ok} | {of} | {features} |")
    share = 100 * passed / max(1, total)
    rows.append(f"| **all** | **{passed}** | **{total}** | **{share:.1f} %** |")
    failing = [
        f"- `{vector_id}` ({title}): {explained.get(vector_id, 'not explained')}"
        for line in results.values()
        for vector_id, title, _ in line.failures
    ]
    told = ["", "## Cases that do not pass", "", *(sorted(failing) or ["None."])]
    return _INTRODUCTION + "\n".join([*rows, *told]) + "\n"


def write(path: Path, text: str) -> None:
    """Write the page."""
    path.write_text(text, "utf-8")
