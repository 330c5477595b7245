"""The sweep, on a schedule: the net below every wake-up, the end of waiting, and the end of keeping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from functions.ingest import parked
from functions.ingest.drain import drain
from shared import rollup

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from functions.ingest.services import Services
    from shared.dictionary import Table

ATTEMPTS_KEPT_DAYS = 30


def sweep(services: Services) -> dict[str, Any]:
    """Drain what can go in, reject what waited too long, forget what was kept long enough, fold the roll-up.

    Returns:
        Fields for the log line.

    Raises:
        TransientError: the next sweep does what this one did not.
    """
    fields = drain(services)
    fields["rows_expired"] = fields["rejects_forgotten"] = 0
    with services.database.transaction(deadline_s=services.settings.deadline_s, lock_wait_s=20) as conn:
        for table in services.dictionary.tables.values():
            fields["rows_expired"] += _expire(conn, table)
            fields["rejects_forgotten"] += _forget_rejects(conn, table)
        with conn.cursor() as cursor:
            cursor.execute(
                "delete from ingest_status.attempts where started_at < now() - make_interval(days => %s)",
                (ATTEMPTS_KEPT_DAYS,),
            )
    with services.database.transaction(deadline_s=services.settings.deadline_s, lock_wait_s=20) as conn:
        fields["deltas_folded"] = rollup.fold(conn)
    return fields


def _expire(conn: connection, table: Table) -> int:
    return parked.end_waiting(
        conn,
        sql.SQL("p.waits_on || '.expired'"),
        sql.SQL("p.table_name = %(table)s and p.parked_at < now() - make_interval(days => %(days)s)"),
        {"table": table.key, "days": table.pending_days},
        {"why": "expired"},
    )


def _forget_rejects(conn: connection, table: Table) -> int:
    """Remove rejects past their time, open ones too: they hold personal data. History, which holds none, stays."""
    with conn.cursor() as cursor:
        cursor.execute(
            "delete from ingest_status.rejects r using ingest_status.ingest_status l where l.id = r.load_id"
            " and l.table_name = %s and l.finished_at < now() - make_interval(days => %s)",
            (table.key, table.retention_days),
        )
        return int(cursor.rowcount)
