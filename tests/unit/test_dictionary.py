"""The data dictionary: which table an object's name means, and that a wrong entry is refused with its remedy."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from shared import dictionary
from shared.errors import AmbiguousTable, DictionaryError, UnknownTable

ENTRY = """
[tables.makers]
schema = "s"
api_name = "makers"
file_pattern = "maker"
[tables.makers.columns.id]
type = "integer"
[tables.parts]
schema = "s"
api_name = "parts"
file_pattern = "part"
primary_key = "code"
[tables.parts.columns.code]
type = "text"
[tables.parts.columns.maker_id]
type = "integer"
references = "makers"
[tables.parts.columns.made_at]
type = "timestamptz"
[tables.parts.columns.weight]
type = "numeric(6,2)"
"""
TABLE, CODE, MAKER = "tables.parts", "tables.parts.columns.code", "tables.parts.columns.maker_id"


def document(**changes: Any) -> dict[str, Any]:
    """The entry above with values changed, each under its dotted place."""
    made = tomllib.loads(ENTRY)
    for place, value in changes.items():
        *above, last = place.split(".")
        inner = made
        for name in above:
            inner = inner[name]
        inner[last] = value
    return made


def test_the_entry_that_the_refusals_start_from_is_right() -> None:
    parsed = dictionary.parse(document())
    assert list(parsed.tables) == ["makers", "parts"]


def test_every_attribute_has_a_rule_for_its_values() -> None:
    """None but those that follow from others can be set unchecked."""
    table_keys = set(dictionary.Table.__dataclass_fields__) - {"key", "columns", "by_name"}
    column_keys = set(dictionary.Column.__dataclass_fields__) - {"name", "kind", "precision", "scale"} | {"type"}
    assert (table_keys, column_keys) == (dictionary.TABLE_KEYS, dictionary.COLUMN_KEYS)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (f"{TABLE}.schema", "S", "parts: schema = 'S' must be lower-case letters"),
        (f"{TABLE}.schema", 3, "parts: schema = 3 must be lower-case letters"),
        (f"{TABLE}.api_name", "a/b", "parts: api_name = 'a/b' must be lower-case letters, digits, _ and -"),
        (f"{TABLE}.api_name", "2021", "parts: api_name = '2021' must be"),
        *(
            (f"{TABLE}.api_name", name, f"api_name = {name!r} must be lower-case letters, digits, _ and -, and not")
            for name in dictionary.TAKEN_API_NAMES
        ),
        (f"{TABLE}.api_name", "makers", "parts: api_name = 'makers' is that of makers: give it another"),
        (f"{TABLE}.file_pattern", ["part"], "parts: file_pattern = ['part'] must be a text"),
        (f"{TABLE}.file_pattern", "", "parts: file_pattern = '' must be a text, which is not empty"),
        (f"{TABLE}.file_pattern", "(", "parts: file_pattern = '(' is no regular expression: missing )"),
        (f"{TABLE}.encoding", "utf-88", "parts: encoding = 'utf-88' is no text encoding that Python knows"),
        (f"{TABLE}.primary_key", "id", "parts: the primary key 'id' is not one of its columns"),
        (f"{TABLE}.primary_key", 1, "parts: primary_key = 1 must be a text"),
        (f"{TABLE}.load_mode", "replace", """parts: load_mode = 'replace' must be "merge" or "add\""""),
        (f"{TABLE}.identity_start", 0, "parts: identity_start = 0 must be a whole number from 1"),
        (f"{TABLE}.max_record_bytes", 0, "parts: max_record_bytes = 0 must be a whole number from 1 to 67108864"),
        (f"{TABLE}.max_errors", "3", "parts: max_errors = '3' must be a whole number from 0"),
        (f"{TABLE}.max_errors", -1, "parts: max_errors = -1 must be a whole number from 0"),
        (f"{TABLE}.max_errors", True, "parts: max_errors = True must be a whole number from 0"),
        (f"{TABLE}.max_leading_errors", 0, "parts: max_leading_errors = 0 must be a whole number from 1"),
        (f"{TABLE}.max_error_ratio", 1.5, "parts: max_error_ratio = 1.5 must be a share from 0 to 1"),
        (f"{TABLE}.max_error_ratio", float("nan"), "parts: max_error_ratio = nan must be a share from 0 to 1"),
        (f"{TABLE}.max_update_ratio", "50%", "parts: max_update_ratio = '50%' must be a share from 0 to 1"),
        (f"{TABLE}.pending_days", -1, "parts: pending_days = -1 must be a whole number from 0 to 36500"),
        (f"{TABLE}.pending_days", 1 << 40, "must be a whole number from 0 to 36500"),
        (f"{TABLE}.retention_days", 1.5, "parts: retention_days = 1.5 must be a whole number from 0 to 36500"),
        (f"{TABLE}.colour", "red", "parts: unknown key 'colour'; known are api_name,"),
        (f"{TABLE}.columns", ["code"], "tables.parts.columns = ['code'] must be a table of TOML, [tables.parts.col"),
        (CODE, "text", "tables.parts.columns.code = 'text' must be a table of TOML, [tables.parts.columns.code]"),
        (TABLE, 5, "tables.parts = 5 must be a table of TOML, [tables.parts]"),
        ("tables", 5, "tables = 5 must be a table of TOML, [tables]"),
        (f"{CODE}.type", 5, "parts.code: type = 5 must be a text"),
        (f"{CODE}.type", "varchar", "parts.code: type 'varchar' is not one of integer, bigint, text"),
        (f"{CODE}.type", "numeric", "parts.code: type 'numeric' is not one of integer, bigint, text"),
        (f"{CODE}.type", "numeric(2,3)", "parts.code: numeric(2,3) needs 1..1000 digits, no more after the point"),
        (f"{CODE}.type", "jsonb", "parts.code: a primary key cannot be jsonb, only integer, bigint, text, timestamptz"),
        (f"{CODE}.type", "boolean", "parts.code: a primary key cannot be boolean, only integer"),
        (f"{CODE}.required", False, "parts: the primary key 'code' must be required"),
        (f"{CODE}.required", "yes", "parts.code: required = 'yes' must be true or false, without quotes"),
        (f"{CODE}.aliases", "name", """parts.code: aliases = 'name' must be a list of texts, such as ["name"]"""),
        (f"{CODE}.aliases", [1], "parts.code: aliases = [1] must be a list of texts"),
        (f"{CODE}.aliases", ["Weight"], "parts: the header name 'weight' means more than one column"),
        (f"{CODE}.max_length", 0, "parts.code: max_length = 0 must be a whole number from 1"),
        (f"{CODE}.max_length", 601, "parts.code: max_length = 601 must be at most 600: a longer key would fit in"),
        (f"{CODE}.minimum", 1, "parts.code: 'minimum' is for integer and bigint, not for text"),
        (f"{MAKER}.minimum", "1", "parts.maker_id: minimum = '1' must be a whole number"),
        (f"{MAKER}.minimum", 1 << 31, "parts.maker_id: minimum = 2147483648 and maximum = 2147483647 must rise"),
        (f"{MAKER}.maximum", 1 << 31, "must rise, within -2147483648 to 2147483647 of integer"),
        (f"{MAKER}.references", ["makers"], "parts.maker_id: references = ['makers'] must be a text"),
        (f"{MAKER}.references", "nobody", "parts.maker_id: references unknown table 'nobody'"),
        (f"{MAKER}.type", "bigint", "parts.maker_id: bigint cannot hold makers.id, which is integer"),
        (f"{MAKER}.parent_missing", "ask", """parts.maker_id: parent_missing = 'ask' must be "wait" or "reject\""""),
        (f"{TABLE}.columns.made_at.assume_zone", "CET", """parts.made_at: assume_zone = 'CET' must be "UTC\""""),
        (f"{TABLE}.columns.made_at.date_alone", True, "parts.made_at: date_alone = True must be"),
        (f"{TABLE}.columns.Code", {"type": "text"}, "parts.Code: 'Code' must be lower-case letters"),
        ("tables.Parts", {}, "table 'Parts': 'Parts' must be lower-case letters"),
        ("table", {}, "unknown section 'table'; only [tables.*] is known"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_refused_with_place_value_and_remedy(place: str, value: object, told: str) -> None:
    """At start, not at the first file: the message names table, column and value, and what would do."""
    with pytest.raises(DictionaryError) as refused:
        dictionary.parse(document(**{place: value}))
    assert told in str(refused.value)


def test_a_key_of_other_digits_than_its_parents_is_refused() -> None:
    """numeric(4,1) would round 1.25 to a key that is there."""
    changed = document(**{"tables.makers.columns.id.type": "numeric(4,1)", f"{MAKER}.type": "numeric(6,2)"})
    with pytest.raises(DictionaryError, match=r"numeric\(6,2\) cannot hold makers.id, which is numeric\(4,1\)"):
        dictionary.parse(changed)


def test_text_keys_and_references_have_a_length_that_an_index_holds() -> None:
    """Without one in the dictionary they get the longest; a smaller one stays; other texts have none."""
    changed = document(
        **{
            f"{MAKER}.references": "parts",
            f"{MAKER}.type": "text",
            f"{MAKER}.max_length": 20,
            f"{TABLE}.columns.note": {"type": "text"},
        }
    )
    columns = dictionary.parse(changed).tables["parts"].by_name
    lengths = [columns[name].max_length for name in ("code", "maker_id", "note")]
    assert lengths == [dictionary.KEY_CHARACTERS, 20, None]


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("parts.csv", "parts"),
        ("2024/03/from makers/PARTS-march.csv.gz", "parts"),
        ("parts/Makers.CSV", "makers"),
        ("part/maker/spare_PaRt", "parts"),
    ],
)
def test_the_base_name_in_any_case_and_any_folder_decides_the_table(name: str, table: str) -> None:
    """Folders say nothing, even where a pattern would match them."""
    assert dictionary.parse(document()).table_for_object(name).key == table


def test_a_name_of_two_tables_is_refused_naming_both() -> None:
    with pytest.raises(AmbiguousTable) as refused:
        dictionary.parse(document()).table_for_object("in/Parts_of_makers.csv")
    assert str(refused.value) == (
        "the name 'Parts_of_makers.csv' matches more than one table (makers: 'maker', parts: 'part'); rename the file"
    )


def test_a_name_of_no_table_is_refused_naming_all() -> None:
    with pytest.raises(UnknownTable, match=r"'x.csv' matches no table \(makers: 'maker', parts: 'part'\)"):
        dictionary.parse(document()).table_for_object("parts/x.csv")
