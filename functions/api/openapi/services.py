"""What the routes do that belong to no table: metrics, history, rejects, backups, dead letters, health, this page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions.api import dead_letters, docs, history
from functions.api.openapi import parts, resources
from functions.api.openapi.parts import Part
from functions.api.openapi.schemas import Schema, answer, array, ref
from functions.api.representations import CSV, NDJSON
from shared import rejects
from shared.dictionary import INTEGER_RANGE

if TYPE_CHECKING:
    from shared.dictionary import Dictionary

LARGEST_ID = INTEGER_RANGE["bigint"][1]
WHOLE: Schema = {"type": "integer", "minimum": 0}
INTEGER: Schema = {"type": "integer"}
OBJECT: Schema = {"type": "object"}
ANY: Part = {}
TEXT: Schema = {"type": "string"}
MAYBE_TEXT: Schema = {"type": ["string", "null"]}
MAYBE_NUMBER: Schema = {"type": ["integer", "null"]}
TIME: Schema = {"type": "string", "format": "date-time"}
MAYBE_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
ID: Schema = {"type": "integer", "minimum": 1, "maximum": LARGEST_ID}
FIRST = "$response.body#/data/0/id"
REJECT_ID: Schema = {"type": "string", "pattern": "^[1-9][0-9]{0,17}-[1-9][0-9]{0,17}$"}
NAME: Schema = {"type": "string", "pattern": r"^[^\u0000]*$"}

# Something that is no blank, as Python trims them. The limit is one of bytes: what is ASCII may be so long.
EVENT_NAME: Schema = {
    "type": "string",
    "pattern": r"^[^\u0000]*[^\s\u0000\u001c-\u001f\u0085][^\u0000]*$",
    "maxLength": dead_letters.LONGEST_NAME_BYTES,
}

YEAR = parts.path("year", {"type": "string", "pattern": "^(?!0000)[0-9]{4}$"}, "In UTC.") | {"example": "2021"}
# Whatever of a load is no text or flag.
LOAD_TYPES: dict[str, Schema] = {
    **dict.fromkeys(("id", "run"), INTEGER),
    **dict.fromkeys(("file_size", "last_id"), MAYBE_NUMBER),
    **dict.fromkeys(("rejects_by_reason", "details"), OBJECT),
    **dict.fromkeys(("started_at", "finished_at"), TIME),
    "forgotten_at": MAYBE_TIME,
    "forced": {"type": "boolean"},
    "kind": {"type": "string", "enum": list(history.KINDS)},
    "state": {"type": "string", "enum": list(history.STATES)},
}
LOAD: Schema = {
    "title": "One load: of a file, a batch, or rows judged again",
    "type": "object",
    "properties": {
        name: LOAD_TYPES.get(name, WHOLE if name.startswith("rows_") else MAYBE_TEXT) for name in rejects.LOAD_COLUMNS
    },
    "required": list(rejects.LOAD_COLUMNS),
}
PART: Schema = {
    "type": "object",
    "properties": dict.fromkeys(("part_number", "first_byte", "end_byte", "rows_read"), INTEGER),
}
LOAD_NOW: Schema = {
    "title": "One load, its parts, and what of it is open or waits now",
    "allOf": [
        ref("Load"),
        {"properties": {"open_rejects": WHOLE, "still_pending": WHOLE, "parts": array(PART)}},
    ],
}
REJECT: Schema = {
    "title": "A record that was not loaded, with all its reasons; or one that waits for its parent",
    "type": "object",
    "properties": {
        "reject_id": TEXT,
        "table_name": MAYBE_TEXT,
        "file_name": MAYBE_TEXT,
        "ingest_id": INTEGER,
        "record_number": INTEGER,
        "line_number": INTEGER,
        "reasons": array({"type": "object", "properties": {"code": TEXT, "detail": TEXT}, "required": ["code"]}),
        "raw": {"type": "string", "description": "The record as it came, up to 8192 characters."},
        "state": {"type": "string", "enum": ["open", "mended", "re-driven", "dismissed", "pending"]},
        "closed_at": MAYBE_TIME,
        "closed_by_ingest": MAYBE_NUMBER,
        "waits_on": {"type": "string", "description": "The column whose parent has not come."},
        "waits_for": TEXT,
        "parked_at": TIME,
    },
    "required": ["reject_id", "ingest_id", "record_number", "reasons", "raw", "state"],
}
BACKUP: Schema = {
    "title": "One table of one backup",
    "type": "object",
    "properties": {
        "id": INTEGER,
        "table_name": TEXT,
        "number_rows": {"type": "integer", "description": "Rows that were written; while it runs, so far."},
        "last_id": MAYBE_NUMBER,
        "backup_id": TEXT,
        "kind": {"type": "string", "enum": ["scheduled", "now", "undo"]},
        "state": {"type": "string", "enum": list(history.BACKUP_STATES)},
        "scheduled_at": MAYBE_TIME,
        "snapshot_at": {**MAYBE_TIME, "description": "What the table held at this instant is in it."},
        "started_at": TIME,
        "finished_at": MAYBE_TIME,
        "bytes": WHOLE,
        "parts": WHOLE,
        "error_code": MAYBE_TEXT,
        "verified_at": MAYBE_TIME,
        "verified_depth": {"type": ["string", "null"], "enum": ["manifest", "bytes", "decode", "restore", None]},
        "verified_ok": {"type": ["boolean", "null"], "description": "What the last verification found."},
    },
    "required": list(history.BACKUP_COLUMNS),
}
DEAD_LETTER: Schema = {
    "title": "An event that was given up after its last delivery",
    "type": "object",
    "properties": {
        "id": INTEGER,
        **dict.fromkeys(("event_id", "event_source", "event_type"), TEXT),
        "subject": MAYBE_TEXT,
        "data": {},
        "attributes": {"type": "object"},
        "received_at": TIME,
        "replayed_at": MAYBE_TIME,
    },
}
NAMED: Schema = {
    "type": "object",
    "properties": {
        "ingest_id": ID,
        "rejects": {
            "description": "Of this load; all that are open without it.",
            "type": "array",
            "items": REJECT_ID,
            "minItems": 1,
            "maxItems": history.MOST_REJECTS,
        },
    },
    "required": ["ingest_id"],
    "additionalProperties": False,
}
COMPONENTS: dict[str, Schema] = {
    "Load": LOAD,
    "LoadNow": LOAD_NOW,
    "Reject": REJECT,
    "Backup": BACKUP,
    "DeadLetter": DEAD_LETTER,
}

BACKUP_EXAMPLE = {
    "id": 3,
    "table_name": "jobs",
    "number_rows": 183,
    "last_id": 183,
    "backup_id": "20261125T031500Z",
    "kind": "scheduled",
    "state": "done",
    "scheduled_at": "2026-11-25T03:15:00Z",
    "snapshot_at": "2026-11-25T03:15:00.204151Z",
    "started_at": "2026-11-25T03:15:00.211904Z",
    "finished_at": "2026-11-25T03:15:02.050177Z",
    "bytes": 2861,
    "parts": 1,
    "error_code": None,
    "verified_at": "2026-11-25T03:45:00.731206Z",
    "verified_depth": "decode",
    "verified_ok": True,
}
LOAD_EXAMPLE = {
    "id": 12, "kind": "file", "state": "loaded", "table_name": "jobs", "file_name": "jobs.csv", "file_size": 2048,
    "bucket": "uploads", "generation": "1637000000000000", "run": 1, "forced": False, "rows_read": 183,
    "rows_inserted": 182, "rows_updated": 0, "rows_unchanged": 0, "rows_rejected": 1, "rows_pending": 0,
    "rows_rolled_back": 0, "rows_deleted": 0, "rejects_by_reason": {"job.missing": 1}, "reason_code": None,
    "reason": None, "details": {}, "last_id": 183, "event_id": "7f1c", "started_at": "2021-11-07T02:48:42Z",
    "finished_at": "2021-11-07T02:48:43Z", "forgotten_at": None,
}  # fmt: skip  # one row of a table reads better than 27 lines
REJECT_EXAMPLE = {
    "reject_id": "12-7", "table_name": "jobs", "file_name": "jobs.csv", "ingest_id": 12, "record_number": 7,
    "line_number": 7, "reasons": [{"code": "job.missing", "detail": "job is empty, and it is required"}], "raw": "7,",
    "state": "open", "closed_at": None, "closed_by_ingest": None,
}  # fmt: skip  # likewise
DEAD_LETTER_EXAMPLE = {
    "id": 1, "event_id": "7f1c", "event_source": "//storage", "event_type": "rowdock.load.v1", "subject": None,
    "data": {}, "attributes": {}, "received_at": "2021-11-07T02:48:42Z", "replayed_at": None,
}  # fmt: skip  # likewise
HIRES_EXAMPLE = {"departments": "Support", "job": "Engineer", "Q1": 3, "Q2": 0, "Q3": 1, "Q4": 2}
CELL_EXAMPLE = {"year": 2021, "quarter": 1, "department_id": 1, "job_id": 1, "rolled_up": 2, "counted": 3}


def of_services(dictionary: Dictionary) -> dict[str, Part]:
    """By operation: what is said of a route that is of no table."""
    tables = [name for table in dictionary.tables.values() for name in dict.fromkeys((table.key, table.api_name))]
    of_table = parts.query("table", {"type": "string", "enum": tables}, "Of this table alone.")
    return {
        "health.alive": _health("Whether the process answers"),
        "health.ready": _health("Whether the database answers, and has the migrations of this version"),
        "metrics.quarters": _quarters(),
        "metrics.departments": _departments(),
        "metrics.verify": _verify(),
        "metrics.rebuild": {
            "summary": "Count the metrics' roll-up anew",
            "responses": {
                "200": parts.ok("Of how many cells it consists.", parts.json(*_data({"cells": WHOLE}, {"cells": 940})))
            },
        },
        "history.list": _list(
            "List loads, the newest first",
            ref("Load"),
            LOAD_EXAMPLE,
            [
                parts.query("object", NAME, "Of the object of this name alone."),
                of_table,
                _choice("state", history.STATES, "How they ended."),
                _choice("kind", history.KINDS, "What they were of."),
            ],
        ),
        "history.read": {
            "summary": "Read one load",
            "parameters": [_id("The load's id, `ingest_id` elsewhere.")],
            "responses": {
                "200": parts.ok(
                    "The load.",
                    parts.json(
                        answer(ref("LoadNow")),
                        {"data": LOAD_EXAMPLE | {"open_rejects": 1, "still_pending": 0, "parts": []}},
                    ),
                )
            },
            "problems": (404,),
        },
        "rejects.list": _rejects(of_table),
        "rejects.redrive": _asked_of_rejects(
            "Judge rejects again under the rules of today",
            "202",
            "The event is on its way; history tells what came of it.",
            {"ingest_id": ID, "rejects": {"type": ["array", "null"], "items": TEXT}},
            {"ingest_id": 12, "rejects": ["12-7"]},
        ),
        "rejects.dismiss": _asked_of_rejects(
            "Close rejects without loading them",
            "200",
            "How many were closed now.",
            {"ingest_id": ID, "dismissed": WHOLE},
            {"ingest_id": 12, "dismissed": 1},
        ),
        "backups.list": _list(
            "List what backups hold, the newest first",
            ref("Backup"),
            BACKUP_EXAMPLE,
            [
                parts.query("table", NAME, "Of this table alone."),
                _choice("state", history.BACKUP_STATES, "Those that run, are done, or failed."),
            ],
        ),
        "dead_letters.take": _take(),
        "dead_letters.list": _list(
            "List dead letters, the newest first",
            ref("DeadLetter"),
            DEAD_LETTER_EXAMPLE,
            [_choice("state", dead_letters.STATES, "Those that were not replayed (`open`), that were, or all.")],
            {"send the first again": {"operationId": "dead_letters.replay", "parameters": {"id": FIRST}}},
        ),
        "dead_letters.replay": _replay(),
        "batch.several": resources.several(dictionary),
        "docs.openapi": {
            "summary": "This document",
            "parameters": [parts.IS_KNOWN],
            "responses": {
                "200": parts.ok("OpenAPI 3.1.", parts.json({"type": "object"}), parts.ETAG),
                "304": parts.ok("The caller has it already.", headers=parts.ETAG),
            },
        },
        "docs.page": _page("This description as a page to read and try"),
        "docs.problems": _page("What each problem code means, and what to do"),
        "docs.asset": _asset(),
    }


def _asset() -> Part:
    name = parts.path("name", {"type": "string", "enum": sorted(docs.assets())}, "With the digest of the content.")
    content: Part = dict.fromkeys(sorted({asset.media_type.partition(";")[0] for asset in docs.assets().values()}), ANY)
    return {
        "summary": "A script, style sheet or icon of the page",
        "parameters": [name],
        "responses": {"200": parts.ok("The file; it never changes.", content)},
        "problems": (404,),
    }


def _page(summary: str) -> Part:
    return {"summary": summary, "responses": {"200": parts.ok("HTML.", {"text/html": {"schema": TEXT}})}}


def _health(summary: str) -> Part:
    schema: Schema = {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
    return {
        "summary": summary,
        "responses": {"200": parts.ok("It does.", parts.json(schema, {"status": "ok"}))},
    }


def _data(properties: dict[str, Schema], example: dict[str, object]) -> tuple[Schema, dict[str, object]]:
    schema: Schema = {"type": "object", "properties": properties, "required": list(properties)}
    return answer(schema), {"data": example}


def _id(description: str) -> Part:
    return parts.path("id", ID, description) | {"example": 12}


def _choice(name: str, words: tuple[str, ...], description: str) -> Part:
    return parts.query(name, {"type": "string", "enum": list(words)}, description)


def _list(summary: str, item: Schema, example: object, filters: list[Part], links: Part | None = None) -> Part:
    schema = answer(array(item), next_page_token=MAYBE_TEXT)
    content = parts.json(schema, {"data": [example], "next_page_token": None})
    return {
        "summary": summary,
        "parameters": [*filters, parts.PAGE_SIZE, parts.PAGE_TOKEN],
        "responses": {"200": parts.ok("A page.", content, parts.NEXT, **({"links": links} if links else {}))},
    }


def _rejects(of_table: Part) -> Part:
    found = _list(
        "List rejects and waiting rows, or export the rejects of a load to mend them",
        ref("Reject"),
        REJECT_EXAMPLE,
        [
            parts.query("ingest_id", ID, "Of this load alone."),
            of_table,
            _choice("state", history.REJECT_STATES, "`open` unless told."),
            parts.query("reason", NAME, "With this reason, such as `hired_date.no_zone`."),
        ],
    )
    found["description"] = (
        "`Accept: text/csv` with `ingest_id` alone gives all open rejects of the load as a file to mend and drop again."
    )
    listed = found["responses"]["200"]
    listed["content"] |= parts.text(CSV, "id,job,_reject_id,_reasons,_line,_raw\n") | parts.text(NDJSON, "")
    listed["headers"] |= {"Content-Disposition": parts.text_header("The file's name, of a CSV.")}
    return found | {"problems": (404, 406)}


def _asked_of_rejects(summary: str, status: str, told: str, data: dict[str, Schema], example: Part) -> Part:
    schema = answer({"type": "object", "properties": data})
    headers = parts.LOCATION if status == "202" else {}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": parts.json(NAMED, {"ingest_id": 12, "rejects": ["12-7"]})},
        "responses": {status: parts.ok(told, parts.json(schema, {"data": example}), headers)},
        "problems": (404, 409, 415) if status == "202" else (404, 415),
    }


def _metric(summary: str, schema: Schema, example: Part, csv: str, headers: Part) -> Part:
    content = parts.json(schema, example) | parts.text(CSV, csv)
    return {
        "summary": summary,
        "parameters": [YEAR, parts.IS_KNOWN],
        "responses": {
            "200": parts.ok("From the roll-up, in one snapshot.", content, parts.ETAG | headers),
            "304": parts.ok("The caller has it already.", headers=parts.ETAG),
        },
        "problems": (404, 406),
    }


def _metric_answer(row: dict[str, Schema], **more: Schema) -> Schema:
    schema: Schema = {"type": "object", "properties": row, "required": list(row), "additionalProperties": False}
    return answer(array(schema), **more, year=INTEGER, time_zone={"const": "UTC"})


def _quarters() -> Part:
    row = {"departments": TEXT, "job": TEXT, **dict.fromkeys(("Q1", "Q2", "Q3", "Q4"), INTEGER)}
    example = {"data": [HIRES_EXAMPLE], "year": 2021, "time_zone": "UTC"}
    csv = "departments,job,Q1,Q2,Q3,Q4\nSupport,Engineer,3,0,1,2\n"
    return _metric("Hires of a year by department, job and quarter", _metric_answer(row), example, csv, {})


def _departments() -> Part:
    row = {"department_id": INTEGER, "departments": TEXT, "hired": INTEGER}
    example = {
        "data": [{"department_id": 8, "departments": "Support", "hired": 216}],
        "mean": 136.9167,
        "year": 2021,
        "time_zone": "UTC",
    }
    mean = {"Rowdock-Mean": {"description": "The mean, beside a CSV.", "schema": {"type": "number"}}}
    csv = "department_id,departments,hired\n8,Support,216\n"
    summary = "Departments that hired more in a year than the mean of all departments"
    return _metric(summary, _metric_answer(row, mean={"type": "number"}), example, csv, mean)


def _verify() -> Part:
    cell: Schema = {"type": "object", "properties": dict.fromkeys(CELL_EXAMPLE, INTEGER)}
    flags: dict[str, Schema] = {"equal": {"type": "boolean"}, "more": {"type": "boolean"}}
    content = parts.json(answer(array(cell), **flags), {"data": [CELL_EXAMPLE], "equal": False, "more": False})
    return {
        "summary": "Compare the metrics' roll-up with a recount",
        "responses": {"200": parts.ok("The cells that differ, up to a hundred.", content)},
    }


def _take() -> Part:
    event: Schema = {
        "type": "object",
        "properties": {
            "specversion": {**TEXT, "description": "1.0"},
            **dict.fromkeys(("id", "source", "type"), EVENT_NAME),
            "data": {"type": ["object", "null"]},
        },
        "required": ["id", "source", "type"],
        "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
    }
    example = {"specversion": "1.0", "id": "7f1c", "source": "//storage", "type": "rowdock.load.v1", "data": {}}
    return {
        "summary": "Keep an event that was given up",
        "description": "For the platform: a CloudEvent, structured or binary, or a push of Pub/Sub.",
        "requestBody": {
            "required": True,
            "content": {"application/cloudevents+json": {"schema": event, "example": example}},
        },
        "responses": {"204": parts.ok("It is kept; the same one twice is kept once.")},
    }


def _replay() -> Part:
    data: dict[str, Schema] = {"id": ID, "event_id": TEXT, "event_type": TEXT}
    example = {"id": 12, "event_id": "0c2e", "event_type": "rowdock.load.v1"}
    return {
        "summary": "Send a dead letter again",
        "parameters": [_id("The dead letter's id.")],
        "responses": {"202": parts.ok("It was sent, under a new event id.", parts.json(*_data(data, example)))},
        "problems": (404, 409),
    }
