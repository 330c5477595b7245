"""What the routes of a table do: its list, its rows, its batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from functions.api import batches, bodies
from functions.api.openapi import parts
from functions.api.openapi.parts import Part
from functions.api.openapi.schemas import (
    Schema,
    added,
    answer,
    array,
    list_body,
    one_body,
    ref,
    row_example,
    sent_value,
    value_example,
)
from functions.api.representations import JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shared.dictionary import Dictionary, Table

COUNTS = {"received": 1, "inserted": 1, "updated": 0, "unchanged": 0, "deleted": 0, "rejected": 0}
RETURN = "`return=minimal`: without the rows"
BATCH_PREFER = parts.prefer(f"`handling=strict`: all rows or none (422). {RETURN}")
BATCH_ERROR: Schema = {
    "allOf": [ref("Fault"), {"required": ["index", "pointer", "code"]}],
    "title": "One reason of one row that is not in",
}
LOAD_ID = "$response.body#/ingest_id"
TO_LOAD: Part = {"the batch in history": {"operationId": "history.read", "parameters": {"id": LOAD_ID}}}
AFTER_REJECTS: Part = TO_LOAD | {
    "its rejects": {"operationId": "rejects.list", "parameters": {"ingest_id": LOAD_ID}},
    "judge them again": {"operationId": "rejects.redrive", "requestBody": {"ingest_id": LOAD_ID}},
    "dismiss them": {"operationId": "rejects.dismiss", "requestBody": {"ingest_id": LOAD_ID}},
}
BATCH_PROBLEMS = (409, 415, 422)


def of_tables(dictionary: Dictionary) -> dict[str, Callable[[Table], Part]]:
    """By operation: what is said of a route of a table."""
    return {
        "rows.list": _list,
        "rows.read": _read,
        "rows.replace": _replace,
        "rows.change": _change,
        "rows.remove": _remove,
        "batch.add": lambda table: _batch(table, "Add {}", "201", ADD, added(table), row_example(table)),
        "batch.write": lambda table: _batch(
            table, "Write {} by their ids", "200", WRITE, ref(table.api_name), row_example(table)
        ),
        "batch.remove": _remove_batch,
    }


ADD = (
    "1 to 1000 rows. Good ones go in, each other one is told and kept among the rejects. A row without `id` gets one. "
    "The same row again is unchanged; another one of the same id is rejected."
)
WRITE = "1 to 1000 rows: those of new ids go in, the others are changed. Rows that are not listed stay as they are."
REMOVE = "1 to 1000 rows, each by its id. One that is not there counts as unchanged, one that is in use is rejected."


def _list(table: Table) -> Part:
    example = row_example(table)
    shown = answer(
        array(ref(f"{table.api_name}.shown")),
        next_page_token={"type": ["string", "null"]},
        count={"type": "integer", "minimum": 0},
    )
    csv = ",".join(example) + "\r\n"
    total = {"X-Total-Count": {"description": "All rows, where a count is asked for.", "schema": {"type": "integer"}}}
    headers = parts.NEXT | parts.APPLIED | total
    content = parts.lines(shown, {"data": [example], "next_page_token": None}, csv, "")
    return {
        "summary": f"List {table.api_name}",
        "description": "Filtered, sorted, page by page, as JSON, CSV or NDJSON by `Accept`.",
        "parameters": [*parts.of_list(table), parts.prefer("`count=exact` or `count=estimated`: count all that match")],
        "responses": {"200": parts.ok("A page of rows.", content, headers)},
        "problems": (406,),
    }


def _read(table: Table) -> Part:
    return {
        "summary": f"Read a row of {table.api_name}",
        "parameters": [_id(table), parts.select(list(table.by_name)), parts.IS_KNOWN],
        "responses": {
            "200": _row(table, "The row."),
            "304": parts.ok("The caller has it already.", headers=parts.ETAG),
        },
        "problems": (404, 406),
    }


def _replace(table: Table) -> Part:
    return {
        "summary": f"Make a row of {table.api_name}, or replace it whole",
        "parameters": [_id(table), parts.IF_MATCH, parts.MUST_BE_NEW, parts.prefer(RETURN)],
        "requestBody": _one(table, f"{table.api_name}.keyless", row_example(table), (JSON,)),
        "responses": {
            "200": _row(table, "It was replaced."),
            "201": _row(table, "It was made.", parts.LOCATION | parts.APPLIED),
            "204": parts.ok("It was replaced; `return=minimal`.", headers=parts.ETAG | parts.APPLIED),
        },
        "problems": (404, 409, 412, 415, 422),
    }


def _change(table: Table) -> Part:
    names = [column.name for column in table.columns if column is not table.key_column][:1]
    example = {name: value for name, value in row_example(table).items() if name in names}
    return {
        "summary": f"Change columns of a row of {table.api_name}",
        "description": "A JSON merge patch (RFC 7396): the columns that the body names; null empties one.",
        "parameters": [_id(table), parts.IF_MATCH, parts.prefer(RETURN)],
        "requestBody": _one(table, f"{table.api_name}.change", example, (bodies.MERGE_PATCH, JSON)),
        "responses": {
            "200": _row(table, "It was changed."),
            "204": parts.ok("It was changed; `return=minimal`.", headers=parts.ETAG | parts.APPLIED),
        },
        "problems": (404, 409, 412, 415, 422),
    }


def _remove(table: Table) -> Part:
    return {
        "summary": f"Remove a row of {table.api_name}",
        "description": "Refused with 409 while other rows refer to it, saying how many of which table.",
        "parameters": [_id(table), parts.IF_MATCH],
        "responses": {"204": parts.ok("It was removed.")},
        "problems": (404, 409, 412),
    }


def _id(table: Table) -> Part:
    example = value_example(table.key_column)
    told = f"The row's {table.primary_key}." + (" It may hold slashes." if table.key_column.kind == "text" else "")
    # A key of digits alone would be taken for an integer by some tools.
    return parts.path("id", sent_value(table.key_column), told) | {"example": example}


def _row(table: Table, description: str, headers: Part | None = None) -> Part:
    content = parts.json(answer(ref(f"{table.api_name}.shown")), {"data": row_example(table)})
    same = {"id": "$request.path.id", "If-Match": "$response.header.ETag"}
    links = {
        f"{verb} it, if nobody did": {"operationId": f"{operation}.{table.api_name}", "parameters": same}
        for verb, operation in (("change", "rows.change"), ("remove", "rows.remove"))
    }
    return parts.ok(description, content, parts.ETAG | (headers or {}) | parts.APPLIED, links=links)


def _one(table: Table, schema: str, example: Any, media_types: Sequence[str]) -> Part:
    media = {"schema": one_body(ref(schema)), "example": {"data": example}}
    return {"required": True, "content": dict.fromkeys(media_types, media)}


def _remove_batch(table: Table) -> Part:
    key, named = ref(f"{table.api_name}.key"), ref(f"{table.api_name}.named")
    example = {table.primary_key: value_example(table.key_column)}
    return _batch(table, "Remove {}", "200", REMOVE, key, example, alone=named)


def _batch(
    table: Table,
    summary: str,
    good: str,
    description: str,
    item: Schema,
    example: dict[str, Any],
    alone: Schema | None = None,
) -> Part:
    csv = ",".join(example) + "\n" + ",".join(_csv_field(value) for value in example.values()) + "\n"
    content = parts.lines(list_body(item, alone or item), {"data": [example]}, csv, _line(example))
    data = {"data": [row_example(table)]} | {"ingest_id": 12, "counts": COUNTS, "errors": []}
    return {
        "summary": summary.format(table.api_name),
        "description": description,
        "parameters": [parts.VALIDATE_ONLY, BATCH_PREFER, parts.IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": content},
        "responses": batch_answers(
            array(ref(f"{table.api_name}.shown")), data, good, _links(table, good), AFTER_REJECTS
        ),
        "problems": BATCH_PROBLEMS,
    }


def _csv_field(value: Any) -> str:
    if isinstance(value, dict):
        return '"' + _line(value).replace('"', '""') + '"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def _line(value: Any) -> str:
    import json

    return json.dumps(value)


def several(dictionary: Dictionary) -> Part:
    """Rows of several tables in one body."""
    tables = list(dictionary.tables.values())
    lists = {
        table.api_name: {"type": "array", "items": added(table), "maxItems": batches.MOST_ROWS} for table in tables
    }
    body: Schema = {"type": "object", "properties": lists, "minProperties": 1, "additionalProperties": False}
    example = {table.api_name: [row_example(table)] for table in tables}
    data = {
        "data": example,
        "ingest_ids": {name: 12 + number for number, name in enumerate(example)},
        "counts": COUNTS | {"received": len(tables), "inserted": len(tables)},
        "errors": [],
    }
    shown: Schema = {
        "type": "object",
        "properties": {table.api_name: array(ref(f"{table.api_name}.shown")) for table in tables},
        "additionalProperties": False,
    }
    return {
        "summary": "Add rows of several tables",
        "description": "1 to 1000 rows in all, parents first, in one transaction; a row may name a parent beside it.",
        "parameters": [parts.VALIDATE_ONLY, BATCH_PREFER, parts.IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": parts.json(body, example)},
        "responses": batch_answers(shown, data, "201", {}, {}),
        "problems": BATCH_PROBLEMS,
    }


def batch_answers(data: Schema, example: dict[str, Any], good: str, links: Part, after_rejects: Part) -> Part:
    """What a batch answers: all rows are in, or some or none, or nothing was to be written."""
    ids = {"type": "object", "additionalProperties": {"type": "integer"}}
    more: dict[str, Schema] = {
        "ingest_id": {"type": "integer", "description": "The batch in history; none where nothing was to be written."},
        "ingest_ids": ids,
        "counts": ref("Counts"),
        "errors": array(ref("BatchError")),
    }
    schema = answer(data, **more) | {"required": ["counts", "errors"]}
    location = {"Location": ref("Location", "headers") | {}}
    headers = parts.APPLIED | {"Idempotency-Replayed": ref("Idempotency-Replayed", "headers")}
    content = parts.json(schema, example)
    found = {
        good: parts.ok("Every row is in.", content, headers | location, links=links),
        "207": parts.ok(
            "Some rows are in, or none; `errors` has the others.", content, headers | location, links=after_rejects
        ),
    }
    if good == "200":  # also without a load, and so without a Location
        found["200"] = parts.ok("Every row is in; or it is told what would be.", content, headers, links=links)
    else:
        found["200"] = parts.ok("What would be: `validate_only` is true.", content, headers)
    return found


def _links(table: Table, good: str) -> Part:
    key = f"$response.body#/data/0/{quote(table.primary_key)}"
    links = dict(TO_LOAD)
    if good == "201":
        links["first row"] = {"operationId": f"rows.read.{table.api_name}", "parameters": {"id": key}}
    return links


COMPONENTS: dict[str, Schema] = {
    "Counts": {
        "title": "How the rows of a batch ended",
        "type": "object",
        "properties": {name: {"type": "integer", "minimum": 0} for name in (*COUNTS, "rolled_back")},
        "required": list(COUNTS),
    },
    "BatchError": BATCH_ERROR,
}
