"""The content's checksum: an order-free sum over the rows, computed by PostgreSQL from the values themselves.

It is compared under the backup's snapshot and on what a restore loaded: between the two lie COPY, encoder, codec,
bucket, decoder and COPY again. A sum, because XOR loses rows that are there twice; PostgreSQL's own 64-bit hash
functions, chained over the columns, because they are the fastest by far (decision 0008).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from psycopg2 import sql

from shared.avro.schema import PIN_TEXT_FORMS, Field

if TYPE_CHECKING:
    from psycopg2.extensions import connection

ALGORITHM = "chained-extended-hash"
OF_NULL = -7046029254386353131  # no less probable a hash than another; it keeps NULL apart from every plain value

# {0} is the column and {1} the hash so far. The functions are the types' own, but where these take two values for
# equal that a restore must tell apart, such as 0 and -0, or 1.0 and 1.00 within jsonb.
BY_KIND = {
    "smallint": "hashint2extended({0}, {1})",
    "integer": "hashint4extended({0}, {1})",
    "bigint": "hashint8extended({0}, {1})",  # gives an integer the hash that it has as integer: a wider type may read
    "boolean": "hashboolextended({0}, {1})",
    "text": 'hashtextextended({0}::text collate "C", {1})',
    "date": "hashdateextended({0}, {1})",
    "timestamptz": "timestamptz_hash_extended({0}, {1})",
    "timestamp": "timestamp_hash_extended({0}, {1})",
    "time": "time_hash_extended({0}, {1})",
    "uuid": "uuid_hash_extended({0}, {1})",
    "numeric": "hashbyteaextended(numeric_send({0}), {1})",  # hash_numeric_extended does not look at the sign
    "real": "hashbyteaextended(float4send({0}), {1})",
    "double": "hashbyteaextended(float8send({0}), {1})",
    "bytea": "hashbyteaextended({0}, {1})",
}
BY_TEXT = 'hashtextextended({0}::text collate "C", {1})'


def expression(fields: Sequence[Field]) -> sql.Composable:
    """The hash of one row, a bigint."""
    chained: sql.Composable = sql.SQL("0::bigint")
    for field in fields:
        chained = _hashed(field, chained)
    return chained


def _hashed(field: Field, before: sql.Composable) -> sql.Composable:
    """The hash of a column's value that goes on from ``before``, which stands in it once."""
    function = sql.SQL(BY_KIND.get(field.kind, BY_TEXT))
    column = sql.Identifier(field.name)
    if not field.nullable:
        return function.format(column, before)
    value = function.format(column, sql.SQL("0::bigint"))
    return sql.SQL("hashint8extended(coalesce({}, {}), {})").format(value, sql.Literal(OF_NULL), before)


def of(conn: connection, relation: sql.Composable, fields: Sequence[Field]) -> tuple[int, str]:
    """Rows of ``relation`` and the sum over them, in a transaction: the texts of some types depend on settings.

    Raises:
        psycopg2.Error: the relation lacks a column, has it in another type, or may not be read.
    """
    rows, value, _ = summary(conn, relation, fields, None)
    return rows, value


def summary(
    conn: connection, relation: sql.Composable, fields: Sequence[Field], key: str | None
) -> tuple[int, str, int | None]:
    """As ``of``, and the greatest value of the integer column ``key``, in one pass.

    Raises:
        psycopg2.Error: as ``of``.
    """
    greatest = sql.SQL("max({})").format(sql.Identifier(key)) if key else sql.SQL("null::bigint")
    statement = sql.SQL("select count(*), coalesce(sum({}), 0)::text, {} from {}").format(
        expression(fields), greatest, relation
    )
    with conn.cursor() as cursor:
        cursor.execute(PIN_TEXT_FORMS)
        cursor.execute(statement)
        found: tuple[int, str, int | None] | None = cursor.fetchone()
        if found is None:
            raise AssertionError("an aggregate gives one row")
        return found
