"""History, rejects and backups over HTTP: the code of the ``rowdock`` commands, which is in ``shared.rejects``.

Rejects are read with the scope that rows are read with: both hold the same personal data.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from functions.api import bodies, pages, parameters, representations
from functions.api.messages import JSON, Response
from functions.api.pages import Page
from functions.api.problems import Problem
from functions.api.representations import CSV, NDJSON
from functions.api.routes import Route
from shared import reasons, rejects

if TYPE_CHECKING:
    from functions.api.messages import Call

KINDS = ("file", "batch", "re-drive")
STATES = ("loaded", "rolled_back", "refused", "superseded", "ignored")
REJECT_STATES = ("open", "closed", "pending", "all")
MOST_REJECTS = 1000  # named in one request: as many as a batch has rows


def ingests(call: Call) -> Response:
    """Loads, the newest first. Open rejects are counted for one load alone: a page of them could take minutes.

    Raises:
        Problem: 400 for a parameter.
    """
    given = parameters.once(call.request.query, ("object", "table", "state", "kind", *pages.PARAMETERS))
    page = Page.of(call.request, given, keys=1)
    with call.connection() as conn:
        found = rejects.loads(
            conn,
            object_name=given.get("object"),
            table=_table(call, given),
            state=parameters.one_of(given, "state", STATES),
            kind=parameters.one_of(given, "kind", KINDS),
            before=page.after[0] if page.after else None,
            limit=page.size + 1,
            counted=False,
        )
    return page.answer(found, [(row["id"],) for row in found])


def ingest(call: Call) -> Response:
    """One load: its counts, parts, reasons, and what of it is open or waits now.

    Raises:
        Problem: 404.
    """
    parameters.once(call.request.query, ())
    number = parameters.as_id(call.parameters["id"])
    if number is None:
        raise _no_such_load("An id is a whole number.")
    with call.connection() as conn:
        try:
            return Response(200, pages.as_json({"data": rejects.load(conn, number)}))
        except rejects.NoSuchLoad:
            raise _no_such_load("History has no load of this id.") from None


def list_rejects(call: Call) -> Response:
    """Rejected or waiting rows in order of load and record, with all their reasons; as CSV all open ones of a load.

    Raises:
        Problem: 400 for a parameter, 404 for a load that has nothing to export, 406.
    """
    media_type = representations.choose(call.request, (JSON, NDJSON, CSV))
    if media_type == CSV:
        return _export(call)
    given = parameters.once(call.request.query, ("ingest_id", "table", "state", "reason", *pages.PARAMETERS))
    page = Page.of(call.request, given, keys=2)
    with call.connection() as conn:
        found = rejects.rejects(
            conn,
            load_id=parameters.number(given, "ingest_id"),
            table=_table(call, given),
            state=parameters.one_of(given, "state", REJECT_STATES) or "open",
            reason=given.get("reason"),
            after=(page.after[0], page.after[1]) if page.after else (0, 0),
            limit=page.size + 1,
        )
    keys = [(row["load_id"], row["record_number"]) for row in found]
    return page.answer([_shown(call, row) for row in found], keys, media_type)


def _shown(call: Call, row: dict[str, Any]) -> dict[str, Any]:
    """A reject under the API's words, each reason with its sentence."""
    names = {"load_id": "ingest_id", "closed_by_load": "closed_by_ingest"}
    shown = {names.get(name, name): value for name, value in row.items()}
    table = call.services.dictionary.tables.get(row["table_name"])
    shown["reasons"] = [
        {"code": code, "detail": reasons.describe(code, table) if table else code} for code in row["reasons"]
    ]
    return shown


def _export(call: Call) -> Response:
    """The open rejects of one load to mend and drop again: streamed, so that none is left out, be they millions."""
    given = parameters.once(call.request.query, ("ingest_id", "state"))
    number = parameters.number(given, "ingest_id")
    if number is None:
        raise parameters.refused("ingest_id", "as CSV the rejects of one load are given; say of which")
    parameters.one_of(given, "state", ("open",))
    exported = rejects.export_pages(call.connection, call.services.dictionary, number)
    try:
        first = next(exported)
    except rejects.NoSuchLoad:
        raise _no_such_load("There is no load of this id that was read as rows.") from None
    disposition = {"Content-Disposition": f'attachment; filename="rejects-{number}.csv"'}
    texts: Iterator[tuple[str, int]] = itertools.chain([first], exported)
    return Response(
        200,
        content_type=representations.CONTENT_TYPES[CSV],
        headers=disposition,
        chunks=(text.encode() for text, _ in texts),
    )


def redrive(call: Call) -> Response:
    """Have rejects of a load judged again under the rules of today: 202, history tells what came of it.

    Without ``rejects`` all open ones, but for those that lost to another row of their key.

    Raises:
        Problem: 404 without such a load, 409 when a reject that is named is not open: then nothing is asked for.
        TransientError: nothing took the event.
    """
    load_id, records = _asked(call)
    with call.connection() as conn:
        _require_load(conn, load_id)
        is_open = rejects.open_among(conn, load_id, records) if records is not None else set()
    closed = [number for number in records or () if number not in is_open]
    if closed:
        detail = "It is no open reject of this load: closed already, waiting for its parent, or never there."
        errors = [
            {"pointer": f"/rejects/{index}", "detail": detail}
            for index, number in enumerate(records or ())
            if number not in is_open
        ]
        raise Problem(
            409, "reject.not_open", f"{len(closed)} of the rejects are not open; none is judged.", errors=errors
        )
    rejects.request_redrive(call.services.send, load_id, records)
    call.line.update(load_id=load_id, rejects=len(records) if records is not None else "all")
    asked = {"ingest_id": load_id, "rejects": _ids(load_id, records)}
    return Response(202, pages.as_json({"data": asked}), headers={"Location": "/api/ingests?kind=re-drive"})


def dismiss(call: Call) -> Response:
    """Close open rejects of a load without loading them; those that are closed already stay as they are.

    Raises:
        Problem: 404 without such a load.
    """
    load_id, records = _asked(call)
    with call.connection() as conn:
        _require_load(conn, load_id)
        dismissed = rejects.dismiss(conn, load_id, records)
    call.line.update(load_id=load_id, rejects=dismissed)
    return Response(200, pages.as_json({"data": {"ingest_id": load_id, "dismissed": dismissed}}))


def _asked(call: Call) -> tuple[int, list[int] | None]:
    """Load and record numbers of ``{"ingest_id": 12, "rejects": ["12-345"]}``; None for all that are open."""
    parameters.once(call.request.query, ())
    body = bodies.read_object(call.request, ("ingest_id", "rejects"))
    load_id, named = body.get("ingest_id"), body.get("rejects")
    if type(load_id) is not int or not 1 <= load_id <= parameters.LARGEST_ID:
        raise bodies.malformed_at("/ingest_id", "The id of a load is needed: a whole number.")
    if "rejects" not in body:
        return load_id, None
    if not isinstance(named, list) or not 1 <= len(named) <= MOST_REJECTS:
        raise bodies.malformed_at(
            "/rejects", f"A list of 1 to {MOST_REJECTS} reject ids is needed; leave it out for all."
        )
    return load_id, [_record(load_id, index, text) for index, text in enumerate(named)]


def _record(load_id: int, index: int, text: object) -> int:
    found = rejects.REJECT_ID.match(text) if isinstance(text, str) else None
    if not found or int(found[1]) != load_id:
        raise bodies.malformed_at(f"/rejects/{index}", f"A reject of this load has an id such as {load_id}-345.")
    return int(found[2])


def _ids(load_id: int, records: list[int] | None) -> list[str] | None:
    return None if records is None else [f"{load_id}-{number}" for number in records]


def _require_load(conn: Any, load_id: int) -> None:
    with conn.cursor() as cursor:
        cursor.execute("select from ingest_status.ingest_status where id = %s and columns is not null", (load_id,))
        if cursor.rowcount == 0:
            raise _no_such_load("There is no load of this id that was read as rows.")


def _no_such_load(detail: str) -> Problem:
    return Problem(404, "load.not_found", f"{detail} GET /api/ingests lists what there is.")


def _table(call: Call, given: dict[str, str]) -> str | None:
    """The dictionary's key for a table that is named by it or by its resource."""
    if "table" not in given:
        return None
    tables = call.services.dictionary.tables
    found = next((key for key, table in tables.items() if given["table"] in (key, table.api_name)), None)
    if found is None:
        raise parameters.refused("table", f"it is one of {', '.join(t.api_name for t in tables.values())}")
    return found


BACKUP_STATES = ("running", "done", "failed")
BACKUP_COLUMNS = (
    *("id", "table_name", "number_rows", "last_id", "backup_id", "kind", "state", "scheduled_at", "snapshot_at"),
    *("started_at", "finished_at", "bytes", "parts", "error_code", "verified_at", "verified_depth", "verified_ok"),
)
BACKUPS = f"""
    select {", ".join(BACKUP_COLUMNS)} from backup_status.backup_status
    where (%(table)s::text is null or table_name = %(table)s) and (%(state)s::text is null or state = %(state)s)
      and (%(before)s::bigint is null or id < %(before)s)
    order by id desc limit %(limit)s
"""  # noqa: S608  # our own constant


def backups(call: Call) -> Response:
    """What the backup function wrote, one row for each table and backup, the newest first.

    Raises:
        Problem: 400 for a parameter.
    """
    given = parameters.once(call.request.query, ("table", "state", *pages.PARAMETERS))
    page = Page.of(call.request, given, keys=1)
    wanted = {
        "table": given.get("table"),
        "state": parameters.one_of(given, "state", BACKUP_STATES),
        "before": page.after[0] if page.after else None,
        "limit": page.size + 1,
    }
    found = call.rows(BACKUPS, wanted)
    return page.answer([dict(zip(BACKUP_COLUMNS, row, strict=True)) for row in found], [(row[0],) for row in found])


ROUTES = (
    Route("GET", "/api/ingests", "history.list", "read", ingests),
    Route("GET", "/api/ingests/<id>", "history.read", "read", ingest),
    Route("GET", "/api/rejects", "rejects.list", "read", list_rejects),
    Route("POST", "/api/rejects/redrive", "rejects.redrive", "write", redrive),
    Route("POST", "/api/rejects/dismiss", "rejects.dismiss", "write", dismiss),
    Route("GET", "/api/backups", "backups.list", "read", backups),
)
