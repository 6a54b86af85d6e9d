"""Settings that make no sense are refused, and the words say which setting and what would be right."""

from typing import Any

import pytest

from mainstem.transformations.ready.catalog import validate_settings


@pytest.mark.parametrize(
    ("name", "raw", "setting", "words"),
    [
        ("split_name", {"first": "traits.name"}, "last", "three different fields"),
        ("split_name", {"name": "traits[0]"}, "name", "element of a list"),
        ("join_name", {"first": "traits.name"}, "name", "three different fields"),
        ("rename_fields", {"fields": {}}, "fields", "nothing would be renamed"),
        ("rename_fields", {}, "fields", "required"),
        ("rename_fields", {"fields": {"a": "a.b"}}, "fields", "moved into itself"),
        ("rename_fields", {"fields": {"messageId": "id"}}, "fields", "messageId"),
        ("set_fields", {"fields": {}}, "fields", "nothing would be set"),
        ("set_fields", {"fields": {"a": "{{ b..c }}"}}, "fields", "no path"),
        ("set_fields", {"fields": {"messageId": "x"}}, "fields", "messageId"),
        ("remove_nulls", {"paths": ["a..b"]}, "paths", "no path"),
        ("flatten_fields", {"separator": ""}, "separator", "length >= 1"),
        ("flatten_fields", {"max_depth": 0}, "max_depth", ">= 1"),
        ("flatten_fields", {"lists": "drop"}, "lists", "keep, index, json"),
        ("keep_event_names", {"names": []}, "names", "at least one event name"),
        ("drop_event_names", {}, "names", "required"),
        ("email_domain_allow_list", {"domains": []}, "domains", "at least one"),
        ("email_domain_allow_list", {"domains": ["jane@example.com"]}, "domains", "is no domain"),
        ("email_domain_deny_list", {"domains": ["*"]}, "domains", "is no domain"),
        ("email_domain_deny_list", {"domains": ["*."]}, "domains", "is no domain"),
        ("email_domain_deny_list", {"domains": ["a.*.com"]}, "domains", "is no domain"),
        ("email_domain_deny_list", {"domains": ["a.com"], "paths": ["$"]}, "paths", "the whole event"),
        ("sample_users", {}, "percent", "required"),
        ("sample_users", {"percent": 101}, "percent", "<= 100"),
        ("add_geo", {"ip": []}, "ip", "at least one field"),
        ("add_geo", {"fields": ["latitude"]}, "fields", "there is no `latitude`"),
        ("parse_user_agent", {"to": "messageId"}, "to", "messageId"),
        ("normalise_currency", {"to": "EURO", "rates": {}}, "to", "ISO 4217"),
        ("normalise_currency", {"to": "EUR", "rates": {"usd": 1}}, "rates", "ISO 4217"),
        ("normalise_currency", {"to": "EUR", "rates": {"USD": 0}}, "rates", "above 0"),
        ("normalise_currency", {"to": "EUR", "rates": {"USD": "NaN"}}, "rates", "above 0"),
        ("normalise_currency", {"to": "EUR", "rates": {"USD": -1}}, "rates", "above 0"),
        (
            "normalise_currency",
            {"to": "EUR", "rates": {}, "default_currency": "USD"},
            "default_currency",
            "has no rate",
        ),
        ("normalise_currency", {"to": "EUR", "rates": {}, "amounts": []}, "amounts", "at least one"),
        ("normalise_currency", {"to": "EUR", "rates": {}, "amounts": ["a", "a"]}, "amounts", "twice"),
        ("change_event_type", {"to": "alias"}, "to", "track, identify, page, screen, group"),
        ("change_event_type", {"to": "group"}, "group_id", "needs one"),
        ("change_event_type", {"to": "track", "types": ["identify"]}, "name", "needs one"),
        ("change_event_type", {"to": "track", "types": []}, "types", "at least one"),
        ("change_event_type", {"to": "track", "name": "{{ }}"}, "name", "empty path"),
    ],
)
def test_wrong_settings(name: str, raw: dict[str, Any], setting: str, words: str) -> None:
    result = validate_settings(name, raw)
    assert result.config is None
    assert [path.partition(".")[0] for path, _ in result.errors] == [setting]
    assert words in result.errors[0][1]
