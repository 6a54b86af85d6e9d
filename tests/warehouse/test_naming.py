"""Names of namespaces, tables and columns, per engine."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstem.warehouse.naming import (
    ENGINES,
    Namer,
    blendo_column,
    blendo_table,
    digest,
    engine_of,
    namespace_of,
    snake_case,
    transformed,
    words,
)


def _namer(provider: str = "duckdb", *, as_rudderstack: bool = False, **options: bool | int) -> Namer:
    return Namer(engine_of(provider), as_rudderstack=as_rudderstack, **options)  # type: ignore[arg-type]


# ------------------------------------------------------------ RudderStack's rules


@pytest.mark.parametrize(
    ("text", "divided", "whole"),
    [
        ("button clicked v2", "button_clicked_v_2", "button_clicked_v2"),
        ("CamelCase123Key", "camel_case_123_key", "camel_case123_key"),
        ("9mega", "_9_mega", "_9mega"),
        ("&4yasdfa(84224_fs9##_____*3q", "_4_yasdfa_84224_fs_9_3_q", "_4yasdfa_84224_fs9_3q"),
        ("abc123def456", "abc_123_def_456", "abc123_def456"),
        ("__timestamp_new", "__timestamp_new", "__timestamp_new"),
        ("Cízǔ", "c_z", "c_z"),
        ("HTTPServer", "http_server", "http_server"),
        ("PDF2HTML", "pdf_2_html", "pdf2_html"),
        ("A1B2c3", "a_1_b_2_c_3", "a1_b2_c3"),
        ("9Mega", "_9_mega", "_9mega"),
        ("@#$%", "", ""),
        ("", "", ""),
        ("___", "", ""),
    ],
)
def test_snake_case_with_and_without_dividing_numbers(text: str, divided: str, whole: str) -> None:
    assert transformed(text, divide_numbers=True) == divided
    assert transformed(text, divide_numbers=False) == whole


def test_words_are_lodashs() -> None:
    assert words("enable 24H isISO8601", divide_numbers=True) == ["enable", "24", "H", "is", "ISO", "8601"]
    assert words("enable 24H isISO8601", divide_numbers=False) == ["enable", "24H", "is", "ISO8601"]
    assert words("1st 🇺🇸 b've", divide_numbers=True) == ["1st", "🇺🇸", "b've"]
    assert snake_case("--foo-b'are--", divide_numbers=False) == "foo_bare"


def test_blendo_keeps_words_together() -> None:
    assert blendo_column("path to $1,000") == "path_to_$1_000"
    assert blendo_column("9Omega") == "_9omega"
    assert blendo_table(" Table@Name! ") == "table@name!"
    namer = _namer("snowflake", as_rudderstack=True, blendo=True)
    assert (namer.column(("camelCase",)), namer.table("Groups!")) == ("CAMELCASE", "GROUPS!")


@pytest.mark.parametrize(
    ("provider", "order", "long"),
    [
        ("postgres", "_order", 63),
        ("rs", "_order", 127),
        ("bq", "_order", 127),
        ("snowflake", "_ORDER", 127),
        ("clickhouse", "order", 127),
        ("mssql", "_order", 127),
        ("azure_synapse", "_order", 127),
        ("deltalake", "_order", 127),
        ("s3_datalake", "_order", 300),
    ],
)
def test_engines_differ_in_case_words_and_length(provider: str, order: str, long: int) -> None:
    namer = _namer(provider, as_rudderstack=True)
    assert namer.column(("order",)) == order
    assert namer.table("Order") == order
    assert len(namer.column(("x" * 300,))) == long
    assert _namer(provider, as_rudderstack=True, escape_words=False).column(("order",)) == order.strip("_")


def test_paths_are_joined_before_words_are_found() -> None:
    assert _namer(as_rudderstack=True).column(("context", "userAgent")) == "context_user_agent"
    assert _namer(as_rudderstack=True).column(("a", "_b")) == "a_b"


def test_tables_of_ours_are_not_an_events() -> None:
    for as_rudderstack in (True, False):
        namer = _namer(as_rudderstack=as_rudderstack)
        assert [namer.table(name) for name in ("tracks", "Users", "rudder_discards")] == [
            "_tracks",
            "_users",
            "_rudder_discards",
        ]


# ------------------------------------------------------------ namespaces


@pytest.mark.parametrize(
    ("source", "provider", "configured", "namespace"),
    [
        ("My Shop", "duckdb", "", "my_shop"),
        ("Web App v2", "postgres", "", "web_app_v_2"),
        ("My Shop", "snowflake", "", "MY_SHOP"),
        ("", "duckdb", "", "stringempty"),
        ("9 lives", "bq", "", "_9_lives"),
        ("group", "postgres", "", "_group"),
        ("anything", "postgres", "Events2024", "events2024"),
        ("anything", "postgres", "pg_catalog", "_pg_catalog"),
        ("anything", "bq", "my-data.set", "my_data_set"),
        ("anything", "bq", "1st", "_1st"),
        ("店", "duckdb", "", f"source_{digest('店')}"),
        ("店", "snowflake", "", f"SOURCE_{digest('店').upper()}"),
    ],
)
def test_namespaces(source: str, provider: str, configured: str, namespace: str) -> None:
    assert namespace_of(source, provider, configured=configured) == namespace


# ------------------------------------------------------------ nothing is the same by accident


@pytest.mark.parametrize("name", ["Order Completed", "userId", "$browser", "Sign up!", "a-b/c", "_id", "9x"])
def test_ordinary_names_are_rudderstacks(name: str) -> None:
    assert _namer().table(name) == _namer(as_rudderstack=True).table(name)
    assert _namer().column((name,)) == _namer(as_rudderstack=True).column((name,))


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("Größe gewählt", "größe_gewählt"),
        ("注文 Completed", "注文_completed"),
        ("naïveCafé", "naïve_café"),
        ("हिन्दी", "हिन्दी"),
        ("C++", f"c_{digest('C++')}"),
        ("C#", f"c_{digest('C#')}"),
        ("50 % off", f"_50_off_{digest('50 % off')}"),
        ("price $", f"price_{digest('price $')}"),
        ("🎉", f"unnamed_{digest('🎉')}"),
        ("paid 🎉", f"paid_{digest('paid 🎉')}"),
        ("!?", f"unnamed_{digest('!?')}"),
        ("_", f"unnamed_{digest('_')}"),
    ],
)
def test_names_beyond_ascii_stay_readable_and_symbols_with_a_meaning_keep_names_apart(
    name: str, table: str
) -> None:
    assert _namer().table(name) == table


def test_catalogs_that_take_only_ascii_get_the_nearest_and_a_suffix() -> None:
    assert _namer("deltalake").table("Größe") == f"große_{digest('Größe')}".replace("ß", "")
    assert _namer("deltalake").column(("Größe",)) == "größe"
    assert _namer("mysql").table("Café") == f"café_{digest('Café')}"


def test_a_name_that_is_cut_keeps_apart_from_others() -> None:
    one, other = _namer().table("x" * 80), _namer().table("x" * 81)
    assert one != other
    assert len(one) == len(other) == 63
    assert one.startswith("x" * 54 + "_")
    cut = _namer().column(("名" * 40,))
    assert len(cut.encode()) <= 63
    assert cut.startswith("名" * 18)
    assert len(_namer("duckdb", max_name=20).column(("y" * 80,))) == 20


def test_a_taken_name_gets_a_suffix_that_is_always_the_same() -> None:
    namer = _namer("snowflake")
    assert namer.apart("A_B", ("a b",)) == f"A_B_{digest('a b').upper()}"
    assert namer.beside("ID", ("id",)) == "_ID"
    assert len(_namer().beside("x" * 63, ("x",))) == 63


@settings(max_examples=200)
@given(st.text(max_size=40), st.sampled_from(sorted(ENGINES)), st.booleans())
def test_any_text_has_a_name_that_the_engine_takes(text: str, provider: str, divide: bool) -> None:
    namer = _namer(provider, divide_numbers=divide)
    engine = engine_of(provider)
    for name in (namer.table(text), namer.column((text,)), namer.column((text, text))):
        assert name
        assert name == (name.upper() if engine.upper_case else name)
        assert len(name.encode("utf-8", "surrogatepass")) <= (engine.max_name or 255)
        assert '"' not in name
        assert "`" not in name
        assert not name[0].isdigit()
        assert name.lower() not in engine.words
    assert namespace_of(text, provider)
    assert transformed(text, divide_numbers=divide).isascii()


@settings(max_examples=200)
@given(st.lists(st.text(alphabet="abé名+%# _$1", max_size=6), min_size=2, max_size=2, unique=True))
def test_names_that_differ_in_letters_or_meaning_never_share_a_table(pair: list[str]) -> None:
    def spelling(name: str) -> str:
        return "".join(char for char in name if char not in " _")

    one, other = pair
    if spelling(one) != spelling(other):
        assert _namer().table(one) != _namer().table(other)


@pytest.mark.parametrize("key", ["_file_name", "_PARTITIONTIME", "_table_suffix", "_change_type"])
def test_columns_that_bigquery_keeps_for_itself_get_an_underscore(key: str) -> None:
    assert _namer("bq").column((key,)) == f"_{_namer().column((key,))}"
    assert _namer("bq").table(key) == _namer().table(key), "tables may be called so"
    long = (f"{key}_{'x' * 200}",)
    name = _namer("bq").column(long)
    assert len(name) == 127
    assert name.startswith("__")
    assert name != _namer("bq").column((f"{key}_{'x' * 201}",))
