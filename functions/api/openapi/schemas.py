"""JSON Schemas and examples of a table's rows, from the dictionary: as they are sent, and as they are answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from functions.api.batch_sql import INTEGERS
from functions.api.batches import MOST_ROWS

if TYPE_CHECKING:
    from shared.dictionary import Column, Table

Schema = dict[str, Any]

TIMES = r"^(?!0000)[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
INSTANT = TIMES + r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-5]):[0-5][0-9])$"
UUID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
# No NUL, which PostgreSQL cannot store; of what is required, something that is no blank.
ANY_TEXT, SOME_TEXT = r"^[^\u0000]*$", r"^[^\u0000]*[^\u0000 \t\r\n][^\u0000]*$"


def ref(name: str, kind: str = "schemas") -> Schema:
    """A reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def components(table: Table) -> dict[str, Schema]:
    """The schemas of one table, by the names that the functions below refer to."""
    name, columns, key = table.api_name, table.columns, table.primary_key
    required = [column.name for column in columns if column.required]
    sent = {column.name: sent_value(column) for column in columns}
    whole: Schema = {"type": "object", "properties": sent, "required": required, "additionalProperties": False}
    optional_key = sent | {key: nullable(sent[key])}
    keyless = whole | {"required": [each for each in required if each != key], "properties": optional_key}
    shown = {column.name: shown_value(column) for column in columns}
    key_member = whole | {"required": [key], "properties": dict.fromkeys(sent, True) | {key: sent[key]}}
    return {
        name: whole | {"title": f"A row of {name}", "examples": [row_example(table)]},
        f"{name}.keyless": keyless | {"title": f"A row of {name}, with or without its {key}"},
        f"{name}.change": keyless | {"required": [], "title": f"Columns of a row of {name}"},
        f"{name}.named": key_member | {"title": f"A row of {name} by its {key}; other columns are not looked at"},
        f"{name}.key": {"title": f"Which row of {name}", "anyOf": [sent[key], ref(f"{name}.named")]},
        f"{name}.shown": {"type": "object", "title": f"A row of {name} as it is stored", "properties": shown},
    }


def added(table: Table) -> Schema:
    """A row of a POST: without a key where the table gives it one."""
    return ref(f"{table.api_name}.keyless" if table.key_column.kind in INTEGERS else table.api_name)


def list_body(item: Schema, alone: Schema) -> Schema:
    """The forms in which a batch of ``item`` is taken; ``alone`` is the form of one that stands in no list."""
    many = {"type": "array", "items": item, "minItems": 1, "maxItems": MOST_ROWS}
    return {"anyOf": [enveloped({"anyOf": [many, alone]}), many, alone]}


def one_body(item: Schema) -> Schema:
    """The forms in which one row is taken."""
    return {"anyOf": [enveloped(item), item]}


def enveloped(data: Schema) -> Schema:
    """``{"data": ...}`` of a request."""
    return {"type": "object", "properties": {"data": data}, "required": ["data"], "additionalProperties": False}


def answer(data: Schema, **members: Schema) -> Schema:
    """``{"data": ...}`` of an answer, and what stands beside it."""
    properties = {"data": data, **members}
    return {"type": "object", "properties": properties, "required": ["data"], "additionalProperties": False}


def array(items: Schema) -> Schema:
    """A list of ``items``."""
    return {"type": "array", "items": items}


def sent_value(column: Column) -> Schema:
    """A value as the rules take it."""
    schema = _SENT[column.kind](column)
    if not column.required:
        schema = nullable(schema)
    if column.references:
        schema["description"] = f"The key of a row of {column.references}, which has to be there."
    return schema


def shown_value(column: Column) -> Schema:
    """A value as it is answered; a table may hold what an older dictionary allowed, so no limits are promised."""
    schema = _SHOWN[column.kind]
    return schema if column.required else nullable(schema)


def nullable(schema: Schema) -> Schema:
    """The same, or null; a schema without a type takes null already."""
    if "type" not in schema:
        return schema
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return schema | {"type": [*types, "null"]}


def _integer(column: Column) -> Schema:
    return _SHOWN[column.kind] | {"minimum": column.minimum, "maximum": column.maximum}


def _text(column: Column) -> Schema:
    longest = {} if column.max_length is None else {"maxLength": column.max_length}
    return {"type": "string", "pattern": SOME_TEXT if column.required else ANY_TEXT} | longest


def _timestamptz(column: Column) -> Schema:
    schema: Schema = {"type": "string", "format": "date-time", "pattern": INSTANT}
    return {"type": "string"} if column.assume_zone or column.date_alone == "midnight" else schema


def _numeric(column: Column) -> Schema:
    before, after = column.precision - column.scale, column.scale
    fraction = rf"(\.[0-9]{{1,{after}}})?" if after else ""
    limit = 10**before
    return {
        "type": ["number", "string"],
        "exclusiveMinimum": -limit,
        "exclusiveMaximum": limit,
        "pattern": rf"^-?0*[0-9]{{1,{max(before, 1)}}}{fraction}$",
        "description": f"At most {before} digits before the point and {after} after it; a string keeps every digit.",
    }


_SHOWN: Mapping[str, Schema] = {
    "integer": {"type": "integer", "format": "int32"},
    "bigint": {"type": "integer", "format": "int64"},
    "text": {"type": "string"},
    "timestamptz": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "numeric": {"type": "number"},
    "boolean": {"type": "boolean"},
    "uuid": {"type": "string", "format": "uuid"},
    "jsonb": {"description": "Any JSON."},
}
_SENT: Mapping[str, Callable[[Column], Schema]] = {
    "integer": _integer,
    "bigint": _integer,
    "text": _text,
    "timestamptz": _timestamptz,
    "date": lambda _: {"type": "string", "format": "date", "pattern": TIMES + "$"},
    "numeric": _numeric,
    "boolean": lambda _: {"type": "boolean"},
    "uuid": lambda _: {"type": "string", "format": "uuid", "pattern": UUID},
    "jsonb": lambda _: {"description": "Any JSON; null is no value."},
}


def row_example(table: Table) -> dict[str, Any]:
    """A row that keeps the rules of ``table``."""
    return {column.name: value_example(column) for column in table.columns}


def value_example(column: Column) -> Any:
    """A value that keeps the rules of ``column``."""
    if column.kind in INTEGERS:
        return max(column.minimum or 0, min(1, column.maximum or 0))
    if column.kind == "text":
        return column.name.replace("_", " ").capitalize()[: column.max_length].strip()
    return _EXAMPLES[column.kind]


_EXAMPLES: Mapping[str, Any] = {
    "timestamptz": "2021-11-07T02:48:42Z",
    "date": "2021-11-07",
    "numeric": 0,
    "boolean": True,
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "jsonb": {"any": ["JSON"]},
}
