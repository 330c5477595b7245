"""Why a row is rejected: the stable codes, and the sentence that tells a person what to do.

A reason is ``<column>.<code>`` or ``record.<code>``; codes never change their meaning, sentences may.
"""

from __future__ import annotations

from shared.dictionary import Column, Table

MISSING = "missing"
NOT_INTEGER = "not_integer"
OUT_OF_RANGE = "out_of_range"
NOT_TIMESTAMP = "not_timestamp"
NO_ZONE = "no_zone"
NO_TIME = "no_time"
NOT_DATE = "not_date"
NOT_NUMERIC = "not_numeric"
NOT_BOOLEAN = "not_boolean"
NOT_UUID = "not_uuid"
NOT_JSON = "not_json"
NOT_TEXT = "not_text"
TOO_LONG = "too_long"
NUL = "nul"
ENCODING = "encoding"
PARENT_MISSING = "parent_missing"
EXPIRED = "expired"
SUPERSEDED = "superseded"
DUPLICATE = "duplicate"
EXISTS = "exists"
IN_USE = "in_use"
QUOTE = "quote"
COLUMN_COUNT = "column_count"
KEY_CHANGED = "key_changed"
UNKNOWN_COLUMN = "unknown_column"
NOT_OBJECT = "not_object"
NESTED = "nested"

RECORD_TOO_LONG = "record.too_long"
RECORD_NUL = "record.nul"
RECORD_ENCODING = "record.encoding"
RECORD_QUOTE = "record.quote"
RECORD_COLUMN_COUNT = "record.column_count"
RECORD_NOT_OBJECT = "record.not_object"
RECORD_UNKNOWN_COLUMN = "record.unknown_column"
RECORD_NESTED = "record.nested"

OF_RECORD = {
    COLUMN_COUNT: "the record has more or fewer fields than the file has columns",
    QUOTE: 'a quote stands inside a field, or is never closed; quote the whole field and double the quotes in it ("")',
    ENCODING: "the record is not in the file's encoding (UTF-8 unless the dictionary's `encoding` says otherwise)",
    NUL: "the record contains a NUL byte, which PostgreSQL cannot store",
    TOO_LONG: "the record is longer than the dictionary's `max_record_bytes`",
    NOT_OBJECT: "the item is no JSON object with the table's columns as its members",
    UNKNOWN_COLUMN: "a member is no column of the table; leave it out, or mend its name",
    NESTED: "a list or an object stands where the column takes a single value",
    SUPERSEDED: "a newer version of the row, or of its file, came while this one waited",
    EXPIRED: "the row waited longer than the dictionary's `pending_days` for its parent",
}

OF_COLUMN = {
    MISSING: "{name} is empty, and it is required",
    NOT_INTEGER: "{name} is no whole number in plain digits (8.0, +8, 1e3 and 1,000 are not)",
    NOT_TIMESTAMP: "{name} is no ISO 8601 time such as 2021-11-07T02:48:42Z (up to 6 fraction digits)",
    NO_ZONE: "{name} names no zone; end it with Z or an offset, or set `assume_zone` for it in the dictionary",
    NO_TIME: "{name} is a date without a time; add one, or set `date_alone` for it in the dictionary",
    NOT_DATE: "{name} is no date of the calendar such as 2021-11-07",
    NOT_NUMERIC: "{name} is no number in plain decimal notation such as -12.50",
    NOT_BOOLEAN: "{name} is neither true nor false",
    NOT_UUID: "{name} is no UUID such as 123e4567-e89b-12d3-a456-426614174000",
    NOT_JSON: "{name} is no JSON that PostgreSQL can hold",
    NOT_TEXT: "{name} is no JSON string",
    NUL: "{name} contains a NUL character, which PostgreSQL cannot store",
    ENCODING: "{name} contains half of a surrogate pair, which is no character",
    EXPIRED: "the row waited longer than the dictionary's `pending_days` for its parent in {name}",
    SUPERSEDED: "a newer version of the row came while this one waited",
    DUPLICATE: "an earlier row of the file or batch has the same {name} with other content",
    EXISTS: "the table has a row of this {name} with other content; PUT changes it, unless its `load_mode` only adds",
    IN_USE: "other rows refer to the row of this {name}; remove them first",
    KEY_CHANGED: "{name} is not the one in the path; a row keeps its {name}",
}


def describe(reason: str, table: Table) -> str:
    """The sentence for ``reason`` (``hired_date.no_zone``, ``record.quote``) of a row of ``table``.

    A code that this version does not know is given back as it is: history may be older or newer than the code.
    """
    owner, _, code = reason.rpartition(".")
    if owner == "record":
        return OF_RECORD.get(code, reason)
    column = table.by_name.get(owner)
    return _of_column(code, column) if column else reason


def _of_column(code: str, column: Column) -> str:
    if code == OUT_OF_RANGE:
        return f"{column.name} is not {_range(column)}"
    if code == TOO_LONG:
        return f"{column.name} has more than {column.max_length} characters"
    if code == PARENT_MISSING:
        return f"{column.name} names a row that {column.references} does not have"
    return OF_COLUMN.get(code, f"{column.name}.{code}").format(name=column.name)


def _range(column: Column) -> str:
    if column.kind == "numeric":
        before, after = column.precision - column.scale, column.scale
        return f"a number of at most {before} digits before the point and {after} after it"
    if column.kind == "timestamptz":
        return "between the years 0001 and 9999 in UTC"
    return f"between {column.minimum} and {column.maximum}"
