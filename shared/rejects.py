"""Loads and their rejects, for a command and for the API alike: list, export to mend, re-drive, dismiss."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

from shared import events
from shared.errors import PermanentError

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from shared.dictionary import Dictionary
    from shared.events import Event

REJECT_ID = re.compile(r"([1-9][0-9]{0,17})-([1-9][0-9]{0,17})\Z")  # both parts are bigint: 18 digits always fit
PAGE_ROWS = 2_000  # of an export, in memory at once: a raw record has up to 8192 characters

LOAD_COLUMNS = (
    "id", "kind", "state", "table_name", "file_name", "file_size", "bucket", "generation", "run", "forced",
    "rows_read", "rows_inserted", "rows_updated", "rows_unchanged", "rows_rejected", "rows_pending",
    "rows_rolled_back", "rows_deleted", "rejects_by_reason", "reason_code", "reason", "details", "last_id",
    "event_id", "started_at", "finished_at", "forgotten_at",
)  # fmt: skip  # one row of names reads better than 25 lines


OPEN_COUNTS = """
    , (select count(*) from ingest_status.rejects r where r.load_id = l.id and r.closed_as is null
       and l.rows_rejected + l.rows_pending > 0) as open_rejects
    , (select count(*) from ingest_status.pending p where p.load_id = l.id and l.rows_pending > 0) as still_pending
"""
PARTS = """
    , (select coalesce(json_agg(json_build_object('part_number', part_number, 'first_byte', first_byte,
       'end_byte', end_byte, 'rows_read', rows_read) order by part_number), '[]')
       from ingest_status.parts p where p.load_id = l.id) as parts
"""


class NoSuchLoad(PermanentError):
    """History has no load of that id, or none that rows could be exported from."""

    code = "load.not_found"


def loads(
    conn: connection,
    *,
    object_name: str | None = None,
    table: str | None = None,
    state: str | None = None,
    kind: str | None = None,
    before: int | None = None,
    limit: int = 50,
    counted: bool = True,
) -> list[dict[str, Any]]:
    """The latest loads first, at most ``limit`` of them; ``before`` is the last id of the page before.

    Args:
        counted: with the rejects that are open now and the rows that still wait, which takes as long as a load has
            many of them.
    """
    return _rows(
        conn,
        f"""
        select {", ".join(LOAD_COLUMNS)} {OPEN_COUNTS if counted else ""}
        from ingest_status.ingest_status l
        where (%(object_name)s::text is null or object_name = %(object_name)s)
          and (%(table)s::text is null or table_name = %(table)s) and (%(state)s::text is null or state = %(state)s)
          and (%(kind)s::text is null or kind = %(kind)s) and (%(before)s::bigint is null or id < %(before)s)
        order by id desc limit %(limit)s
        """,  # noqa: S608  # its parts are constants
        {
            "object_name": object_name,
            "table": table,
            "state": state,
            "kind": kind,
            "before": before,
            "limit": limit,
        },
    )


def load(conn: connection, load_id: int) -> dict[str, Any]:
    """One load, with its parts (byte ranges), its open rejects and the rows that still wait.

    Raises:
        NoSuchLoad: history does not have it.
    """
    columns = f"{', '.join(LOAD_COLUMNS)} {OPEN_COUNTS} {PARTS}"
    statement = f"select {columns} from ingest_status.ingest_status l where id = %(id)s"  # noqa: S608  # constants
    found = _rows(conn, statement, {"id": load_id})
    if not found:
        raise NoSuchLoad(f"history has no load {load_id}")
    return found[0]


def rejects(
    conn: connection,
    *,
    load_id: int | None = None,
    table: str | None = None,
    state: str = "open",
    reason: str | None = None,
    after: tuple[int, int] = (0, 0),
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Rejects in order of load and record, at most ``limit``, each with the id that closes it.

    Args:
        state: ``open``, ``closed``, ``pending`` (rows that wait for a parent) or ``all`` (open and closed).
        reason: only those with this reason, such as ``hired_date.missing``.
        after: load id and record number of the last one of the page before.
    """
    # Within one load a page begins at its record: beside an equality an index does not seek by a comparison of rows.
    first = after[1] if after[0] == load_id else 0
    if state == "pending":
        waiting = {"load_id": load_id, "table": table, "reason": reason, "limit": limit, "first": first}
        return _rows(conn, PENDING_SQL, waiting | {"after_load": after[0], "after_record": after[1]})
    closed = {"open": False, "closed": True, "all": None}[state]
    return _rows(
        conn,
        REJECTS_SQL,
        {
            "load_id": load_id,
            "table": table,
            "closed": closed,
            "reason": reason,
            "after_load": after[0],
            "after_record": after[1],
            "limit": limit,
            "first": first,
        },
    )


REJECTS_SQL = """
    select r.load_id || '-' || r.record_number as reject_id, l.table_name, l.file_name, r.load_id, r.record_number,
           r.line_number, r.reasons, r.raw, coalesce(r.closed_as, 'open') as state, r.closed_at, r.closed_by_load
    from ingest_status.rejects r join ingest_status.ingest_status l on l.id = r.load_id
    where (r.load_id, r.record_number) > (%(after_load)s, %(after_record)s)
      and (%(load_id)s::bigint is null or (r.load_id = %(load_id)s and r.record_number > %(first)s))
      and (%(table)s::text is null or l.table_name = %(table)s)
      and (%(closed)s::boolean is null or (r.closed_as is not null) = %(closed)s)
      and (%(reason)s::text is null or %(reason)s = any(r.reasons))
    order by r.load_id, r.record_number limit %(limit)s
"""
PENDING_SQL = """
    select p.load_id || '-' || p.record_number as reject_id, p.table_name, l.file_name, p.load_id, p.record_number,
           p.line_number, array[p.waits_on || '.parent_missing'] as reasons, p.raw, 'pending' as state,
           p.waits_on, p.waits_for, p.parked_at
    from ingest_status.pending p join ingest_status.ingest_status l on l.id = p.load_id
    where (p.load_id, p.record_number) > (%(after_load)s, %(after_record)s)
      and (%(load_id)s::bigint is null or (p.load_id = %(load_id)s and p.record_number > %(first)s))
      and (%(table)s::text is null or p.table_name = %(table)s)
      and (%(reason)s::text is null or p.waits_on || '.parent_missing' = %(reason)s)
    order by p.load_id, p.record_number limit %(limit)s
"""


def export(conn: connection, dictionary: Dictionary, load_id: int, out: TextIO) -> int:
    """Write ``export_pages`` to ``out``; returns how many rejects there are.

    Raises:
        NoSuchLoad: as ``export_pages``.
    """
    written = 0
    for text, rejected in export_pages(lambda: nullcontext(conn), dictionary, load_id):
        out.write(text)
        written += rejected
    return written


def export_pages(
    connect: Callable[[], AbstractContextManager[connection]], dictionary: Dictionary, load_id: int
) -> Iterator[tuple[str, int]]:
    """The open rejects of a load as a CSV that can be mended and dropped again: text, and how many rejects are in it.

    It has the file's own columns, then ``_reject_id``, which closes the original when the mended file is loaded, and
    ``_reasons``, ``_line`` and ``_raw``, which a load ignores. A record that does not fall into the columns
    stands in ``_raw``, its columns empty.

    Args:
        connect: lends a connection for each page, so that a slow reader holds none in between.

    Raises:
        NoSuchLoad: at the first page: no such load, its file was never read as rows, or its rejects were forgotten.
    """
    with connect() as conn:
        columns, delimiter = _form(conn, dictionary, load_id)
    names = [name for name in columns if name is not None and name != "_reject_id"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, "_reject_id", "_reasons", "_line", "_raw"])
    page: list[dict[str, Any]] = []
    while True:
        with connect() as conn:
            after = (load_id, page[-1]["record_number"]) if page else (0, 0)
            page = rejects(conn, load_id=load_id, after=after, limit=PAGE_ROWS)
        for reject in page:
            values = _split(reject["raw"], delimiter, columns, reject["reasons"])
            own = [values[name] for name in names] if values else [""] * len(names)
            raw = "" if values else reject["raw"]
            writer.writerow([*own, reject["reject_id"], " ".join(reject["reasons"]), reject["line_number"], raw])
        yield out.getvalue(), len(page)
        if len(page) < PAGE_ROWS:
            return
        out.seek(0)
        out.truncate()


def _form(conn: connection, dictionary: Dictionary, load_id: int) -> tuple[list[str | None], str]:
    """Column of each field, and the delimiter, of a load's records."""
    found = _rows(
        conn,
        "select table_name, columns, delimiter, forgotten_at from ingest_status.ingest_status where id = %(id)s",
        {"id": load_id},
    )
    if not found or found[0]["columns"] is None or found[0]["table_name"] not in dictionary.tables:
        raise NoSuchLoad(f"load {load_id} has no rows to export; rowdock loads lists those that have")
    if found[0]["forgotten_at"] is not None:
        raise NoSuchLoad(
            f"the rejects of load {load_id} were forgotten on {found[0]['forgotten_at']:%Y-%m-%d}, retention_days after"
            " it: load the object again by force to see them"
        )
    return found[0]["columns"], found[0]["delimiter"]


def _split(raw: str, delimiter: str, columns: list[str | None], reasons: list[str]) -> dict[str, str] | None:
    """The record's fields by column, or None when it does not fall into them."""
    if any(reason.startswith("record.") for reason in reasons if reason != "record.superseded"):
        return None
    try:
        records = list(csv.reader([raw], delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    if len(records) != 1 or len(records[0]) != len(columns):
        return None
    return {name: value.strip(" \t\r\n") for name, value in zip(columns, records[0], strict=True) if name is not None}


def dismiss(conn: connection, load_id: int, records: list[int] | None) -> int:
    """Close open rejects of a load without loading them, all or those named; returns how many."""
    with conn.cursor() as cursor:
        cursor.execute(
            "update ingest_status.rejects set closed_as = 'dismissed', closed_at = clock_timestamp()"
            " where load_id = %s and closed_as is null and (%s::bigint[] is null or record_number = any(%s))",
            (load_id, records, records),
        )
        return int(cursor.rowcount)


def request_redrive(send: Callable[[Event], None], load_id: int, records: list[int] | None) -> None:
    """Ask the ingest function to judge rejects of a load again; it answers in history, as a load of kind re-drive.

    Args:
        send: posts the event.

    Raises:
        TransientError: nothing took the event.
    """
    send(events.make(events.REDRIVE, {"load_id": load_id, "records": records}))


def open_among(conn: connection, load_id: int, records: list[int]) -> set[int]:
    """Those of ``records`` that are open rejects of the load."""
    with conn.cursor() as cursor:
        cursor.execute(
            "select record_number from ingest_status.rejects"
            " where load_id = %s and record_number = any(%s) and closed_as is null",
            (load_id, records),
        )
        return {number for (number,) in cursor.fetchall()}


def parse_reject_ids(texts: list[str]) -> dict[int, list[int]]:
    """Group ids such as ``12-345`` by load.

    Raises:
        PermanentError: a text is no reject id.
    """
    by_load: dict[int, list[int]] = {}
    for text in texts:
        if not (found := REJECT_ID.match(text)):
            raise PermanentError(f"{text!r} is no reject id; they look like 12-345 (load, record)")
        by_load.setdefault(int(found[1]), []).append(int(found[2]))
    return by_load


def _rows(conn: connection, statement: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    with conn.cursor() as cursor:
        cursor.execute(statement, parameters)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
