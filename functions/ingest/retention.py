"""Retention: what may hold personal data goes ``retention_days`` after its load ended; what was loaded stays known.

Rejects go, open ones too, with the reason and the details of their load. Loads of kind batch and re-drive go whole. A
file's keeps its row for ever: bucket, object, generation, run, state and counts, in which there is nothing personal,
are what tells a redelivery and reconcile that this generation was loaded. A load that rows still wait from is kept
until they have their end.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from shared.dictionary import RETENTION_DAYS

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from shared.dictionary import Dictionary

LOADS_AT_ONCE = 1_000
ROWS_AT_ONCE = 10_000
ANSWERS_AT_ONCE = 1_000  # each may have the body of a long answer
ATTEMPTS_KEPT_DAYS = 30
DEAD_LETTERS_KEPT_DAYS = 90
ANSWERS_KEPT_HOURS = 24  # as long as the API gives them (functions/api/idempotency.py)

# Skips what a re-drive holds. Loads of no table, or of one that left the dictionary, are kept as long as the default.
DUE = """
    select l.id from ingest_status.ingest_status l
    left join unnest(%(tables)s::text[], %(days)s::integer[]) kept (table_name, days) using (table_name)
    where l.forgotten_at is null and l.finished_at < now() - make_interval(days => %(fewest_days)s)
      and l.finished_at < now() - make_interval(days => coalesce(kept.days, %(other_days)s))
      and not exists (select from ingest_status.pending p where p.load_id = l.id)
    order by l.finished_at limit %(limit)s for update of l skip locked
"""
DELETE_REJECTS = """
    with gone as (
      delete from ingest_status.rejects where (load_id, record_number) in (
        select load_id, record_number from ingest_status.rejects where load_id = any(%(due)s::bigint[]) limit %(limit)s)
      returning closed_as)
    select count(*), count(*) filter (where closed_as is null) from gone
"""
# Looked at again now that the loads are held: a re-drive may have ended in between.
WITHOUT_ROWS = """
    select id from unnest(%(due)s::bigint[]) due (id)
    where not exists (select from ingest_status.rejects r where r.load_id = due.id)
      and not exists (select from ingest_status.pending p where p.load_id = due.id)
"""
FORGOTTEN = "its time was over (retention_days): rejects, reason and details were forgotten"


def forget_loads(conn: connection, dictionary: Dictionary) -> Counter[str]:
    """One batch, in the caller's transaction; returns what was forgotten, nothing if no load is due."""
    days = {key: table.retention_days for key, table in dictionary.tables.items()}
    parameters = {
        "tables": list(days),
        "days": list(days.values()),
        "fewest_days": min([RETENTION_DAYS, *days.values()]),
        "other_days": RETENTION_DAYS,
        "limit": LOADS_AT_ONCE,
    }
    with conn.cursor() as cursor:
        cursor.execute(DUE, parameters)
        due = [load_id for (load_id,) in cursor.fetchall()]
        cursor.execute(DELETE_REJECTS, {"due": due, "limit": ROWS_AT_ONCE})
        rejects, still_open = cursor.fetchone()  # type: ignore[misc]  # count gives one row
        cursor.execute(WITHOUT_ROWS, {"due": due})
        done = [load_id for (load_id,) in cursor.fetchall()]
        cursor.execute("select ingest_status.forget(%s::bigint[], %s)", (done, FORGOTTEN))
    return Counter(loads_forgotten=len(done), rejects_forgotten=rejects, open_rejects_forgotten=still_open)


def forget_attempts(conn: connection) -> Counter[str]:
    """One batch, in the caller's transaction, of attempts that began too long ago for anybody to watch."""
    with conn.cursor() as cursor:
        cursor.execute(
            "delete from ingest_status.attempts where id in (select id from ingest_status.attempts"
            " where started_at < now() - make_interval(days => %s) order by started_at limit %s)",
            (ATTEMPTS_KEPT_DAYS, ROWS_AT_ONCE),
        )
        return Counter(attempts_forgotten=cursor.rowcount)


def forget_dead_letters(conn: connection) -> Counter[str]:
    """One batch, in the caller's transaction, of dead letters that nobody will replay any more, or somebody did."""
    with conn.cursor() as cursor:
        cursor.execute(
            "delete from ingest_status.dead_letters where id in (select id from ingest_status.dead_letters"
            " where received_at < now() - make_interval(days => %s) order by received_at limit %s)",
            (DEAD_LETTERS_KEPT_DAYS, ROWS_AT_ONCE),
        )
        return Counter(dead_letters_forgotten=cursor.rowcount)


def forget_answers(conn: connection) -> Counter[str]:
    """One batch, in the caller's transaction, of answers to requests with an Idempotency-Key.

    The API forgets some with each such request: this is for those after which none came. One that was given anew while
    it was looked at is as young as that.
    """
    with conn.cursor() as cursor:
        cursor.execute(
            "delete from api_access.idempotency where created_at < now() - make_interval(hours => %(hours)s)"
            " and (principal, key) in (select principal, key from api_access.idempotency"
            "  where created_at < now() - make_interval(hours => %(hours)s) order by created_at limit %(limit)s)",
            {"hours": ANSWERS_KEPT_HOURS, "limit": ANSWERS_AT_ONCE},
        )
        return Counter(answers_forgotten=cursor.rowcount)
