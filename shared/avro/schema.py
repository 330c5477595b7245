"""Which AVRO type a column of PostgreSQL takes, and the schema of a table's records (decision 0008)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql

# format_type's name → kind. Every other type goes as its text, kind "other".
KINDS = {
    "smallint": "smallint",
    "integer": "integer",
    "bigint": "bigint",
    "boolean": "boolean",
    "text": "text",
    "character varying": "text",
    "character": "text",
    "date": "date",
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
    "time without time zone": "time",
    "real": "real",
    "double precision": "double",
    "uuid": "uuid",
    "jsonb": "jsonb",
    "bytea": "bytea",
}
AVRO_TYPES: dict[str, Any] = {
    "smallint": "int",
    "integer": "int",
    "bigint": "long",
    "boolean": "boolean",
    "text": "string",
    "date": {"type": "int", "logicalType": "date"},
    "timestamptz": {"type": "long", "logicalType": "timestamp-micros"},
    "timestamp": {"type": "long", "logicalType": "local-timestamp-micros"},
    "time": {"type": "long", "logicalType": "time-micros"},
    "real": "float",
    "double": "double",
    "uuid": {"type": "string", "logicalType": "uuid"},
    "jsonb": "string",
    "bytea": "bytes",
}
MOST_DIGITS = 38  # of a decimal that readers take; more go as text
PRECISION_OF_TYPE = re.compile(r"\(\d+\)")
NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")

# The texts of types that AVRO lacks depend on these; for the transaction that backs up or restores (SET LOCAL).
PIN_TEXT_FORMS = (
    "set local timezone = 'UTC'; set local datestyle = 'ISO, YMD'; set local intervalstyle = 'postgres';"
    " set local bytea_output = 'hex'; set local extra_float_digits = 1; set local lc_monetary = 'C';"
    " set local xmloption = 'content'"
)


@dataclass(frozen=True, slots=True)
class Field:
    """One column.

    Attributes:
        name: in PostgreSQL.
        avro_name: in the AVRO schema (``avro_name``).
        sql_type: as ``format_type`` prints it, such as ``numeric(10,2)`` or ``timestamp with time zone``.
        nullable: whether the column may hold NULL.
    """

    name: str
    avro_name: str
    sql_type: str
    nullable: bool

    @property
    def kind(self) -> str:
        """How its values are laid out: a value of ``KINDS``, ``numeric``, or ``other`` for what goes as text."""
        if self.digits is not None:
            return "numeric"
        return KINDS.get(PRECISION_OF_TYPE.sub("", self.sql_type), "other")

    @property
    def digits(self) -> tuple[int, int] | None:
        """Precision and scale of a numeric that an AVRO decimal holds; None for every other type."""
        declared = NUMERIC.fullmatch(self.sql_type)
        if declared is None:
            return None
        precision, scale = int(declared[1]), int(declared[2])
        return (precision, scale) if 0 <= scale <= precision <= MOST_DIGITS else None

    @property
    def avro_type(self) -> Any:
        """The AVRO schema of its values, with null first where the column is nullable."""
        if self.kind == "numeric":
            precision, scale = self.digits or (0, 0)
            plain: Any = {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}
        elif self.kind == "other":
            plain = {"type": "string", "pg.type": self.sql_type}
        else:
            plain = AVRO_TYPES[self.kind]
        return ["null", plain] if self.nullable else plain

    def expression(self) -> sql.Composable:
        """What COPY selects: the column, or its text for a type that goes as text."""
        column = sql.Identifier(self.name)
        return sql.SQL("{}::text").format(column) if self.kind == "other" else column


def avro_name(name: str, taken: Container[str] = ()) -> str:
    """A name that AVRO allows and that is not in ``taken``; ``name`` itself wherever it can be."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    plain = f"_{plain}" if not plain or plain[0].isdigit() else plain
    found, number = plain, 2
    while found in taken:
        found, number = f"{plain}_{number}", number + 1
    return found


def record_schema(schema: str, table: str, fields: Sequence[Field]) -> dict[str, Any]:
    """The AVRO schema of the table's records."""
    return {
        "type": "record",
        "name": avro_name(table),
        "namespace": avro_name(schema),
        "fields": [_field_schema(field) for field in fields],
    }


def _field_schema(field: Field) -> dict[str, Any]:
    described = {"name": field.avro_name, "type": field.avro_type}
    return {**described, "default": None} if field.nullable else described


def canonical_sha256(schema: dict[str, Any]) -> str:
    """SHA-256 of the schema's Parsing Canonical Form (AVRO specification), in hexadecimal."""
    return hashlib.sha256(canonical_form(schema).encode()).hexdigest()


def canonical_form(schema: Any) -> str:
    """The Parsing Canonical Form of a record of plain types and unions of them, which is all that a table needs."""
    return json.dumps(_canonical(schema), separators=(",", ":"), ensure_ascii=False)


def _canonical(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_canonical(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    if schema["type"] != "record":
        return schema["type"]
    namespace = schema.get("namespace")
    return {
        "name": f"{namespace}.{schema['name']}" if namespace else schema["name"],
        "type": "record",
        "fields": [{"name": field["name"], "type": _canonical(field["type"])} for field in schema["fields"]],
    }
