"""Load one object: every row that keeps the rules goes in, every other one is logged, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg2
from numpy.typing import NDArray

from functions.ingest import dialect, history, source, thresholds, waiting_doubles
from functions.ingest.history import Attempt, Load
from functions.ingest.judge import PENDING, REJECTED, Judge, Judged
from functions.ingest.live_keys import LiveKeys
from functions.ingest.meanwhile import busy_if_written
from functions.ingest.parked import after_parking, close_earlier_generations, supersede_older
from functions.ingest.peeked import Peeked
from functions.ingest.seen_keys import SeenKeys
from functions.ingest.sender import Sender
from functions.ingest.statements import Statements
from shared import events, rollup
from shared.copy_binary import Fixed, tuples
from shared.dictionary import INTEGER_RANGE
from shared.errors import (
    AmbiguousTable,
    DatabaseBusy,
    FileRefused,
    ObjectNotFound,
    RowdockError,
    UnknownTable,
)
from shared.postgres import translate
from shared.reasons import EXISTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg2.extensions import connection

    from functions.ingest.services import Services
    from shared.dictionary import Column, Dictionary, Table
    from shared.events import ObjectFinalized
    from shared.objectstore import ObjectInfo

HEAD_BYTES = 1 << 18  # what the dialect is told from
LOCK_WAIT_S = 20.0
# Above so many written rows a load folds: 5 M leave 11,712 deltas, which take 29 ms. More is the sweep's.
FOLD_ABOVE_ROWS = 100_000
FOLDED_DELTAS = 500_000
FOLD_DEADLINE_S = 10.0
FOLD_LOCK_WAIT_S = 1.0
# So many staged rows are looked up by their keys, one by one: of a table that grew since its last ANALYZE the planner
# may believe that reading all of it costs less (0.5 s for 2,000 rows against 5 M).
LOOKED_UP_ROWS = 20_000


def load_object(services: Services, wanted: ObjectFinalized, *, force: bool = False) -> dict[str, Any]:
    """Load the object's current generation, unless history says that it was; a redelivery changes nothing.

    Args:
        force: load again what history has already, and past thresholds.

    Returns:
        Fields for the log line; ``state`` is the load's state or ``duplicate``.

    Raises:
        TransientError: the same delivery may succeed later.
    """
    with services.database.connection() as side:
        attempt = Attempt(side, wanted.bucket, wanted.name, wanted.generation or "", wanted.event_id)
        try:
            fields = _load_or_record(services, wanted, force, side, attempt)
        except RowdockError as error:
            _finish_failed(attempt, error)
            raise
        return fields | _finish_done(attempt, fields)


def _finish_done(attempt: Attempt, fields: dict[str, Any]) -> dict[str, str]:
    """The load has its history: that its attempt's end cannot be written is a matter for the log line."""
    try:
        attempt.finish(fields["state"], fields.get("reason_code"))
    except psycopg2.Error as error:
        return {"attempt_not_finished": translate(error).code}
    return {}


def _finish_failed(attempt: Attempt, error: RowdockError) -> None:
    try:
        attempt.finish("failed", error.code)
    except Exception as second:  # noqa: BLE001  # the side connection may be what failed; the first error is the one that counts
        error.add_note(f"the attempt's end could not be written either: {type(second).__name__}")


def _load_or_record(
    services: Services, wanted: ObjectFinalized, force: bool, side: connection, attempt: Attempt
) -> dict[str, Any]:
    load = Load(
        kind="file",
        bucket=wanted.bucket,
        object_name=wanted.name,
        generation=wanted.generation,
        event_id=wanted.event_id,
        event_source=wanted.event_source,
        forced=force,
    )
    try:
        with busy_if_written():
            return _Loading(services, load, side, attempt).run()
    except (FileRefused, UnknownTable, AmbiguousTable) as refusal:
        load.state, load.reason_code, load.reason = "refused", refusal.code, str(refusal)
    except ObjectNotFound as gone:
        load.state, load.reason_code = "superseded", gone.code
        load.reason = "the object, or this generation of it, was deleted or replaced before it was read"
    return record_without_rows(services, load)


def record_without_rows(services: Services, load: Load) -> dict[str, Any]:
    """Write the history of a load that brought no row, unless this generation has its history already."""
    load.counts = history.Counts()
    if load.generation is None:
        return load.as_fields()  # nothing names what was announced: the log line is all there is to say
    with services.database.transaction(deadline_s=60, lock_wait_s=LOCK_WAIT_S) as conn:
        history.claim(conn, str(load.bucket), str(load.object_name))
        before = history.last_run(conn, str(load.bucket), str(load.object_name), load.generation)
        if before and not load.forced and (before[1] != "superseded" or load.state == "superseded"):
            return load.as_fields() | {"state": "duplicate"}
        load.run = before[0] + 1 if before else 1
        history.record(conn, load)
        if load.state == "refused":
            close_earlier_generations(conn, load)
    return load.as_fields()


def parent_lookup(side: connection, dictionary: Dictionary) -> Callable[[Column, Sequence[int | str]], set[int | str]]:
    """``present`` for the judge: which of a column's keys have a parent row now (committed rows only)."""

    def present(column: Column, keys: Sequence[int | str]) -> set[int | str]:
        parent = Statements(dictionary.tables[str(column.references)])
        with side.cursor() as cursor:
            cursor.execute(parent.present_keys(), (list(keys),))
            return {key for (key,) in cursor.fetchall()}

    return present


@dataclass(slots=True)
class _Loading:
    """One load on its way through the transaction."""

    services: Services
    load: Load
    side: connection
    attempt: Attempt

    def run(self) -> dict[str, Any]:
        load, settings = self.load, self.services.settings
        with self.services.database.transaction(deadline_s=settings.deadline_s, lock_wait_s=LOCK_WAIT_S) as conn:
            history.claim(conn, str(load.bucket), str(load.object_name))
            if self._is_done(conn, load.generation):
                return load.as_fields() | {"state": "duplicate"}
            info = self.services.store.stat(str(load.bucket), str(load.object_name))
            announced, load.generation = load.generation, info.generation
            if announced not in (None, info.generation):
                return self._superseded(conn, str(announced))
            if announced is None and self._is_done(conn, load.generation):
                return load.as_fields() | {"state": "duplicate"}
            load.id = history.next_load_id(conn)
            load.file_size, load.etag, load.crc32c = info.size, info.etag, info.crc32c
            if info.size == 0:
                load.state, load.reason_code, load.reason = "ignored", "file.empty", "the object has no bytes"
                history.record(conn, load)
                close_earlier_generations(conn, load)
                return load.as_fields()
            table = self.services.dictionary.table_for_object(str(load.object_name))
            load.table_name = table.key
            self._note_known_content(conn)
            parked = self._load_rows(conn, table, info)
        return load.as_fields() | self._wake(table, parked) | self._fold()

    def _is_done(self, conn: connection, generation: str | None) -> bool:
        """Whether history has the generation. One that was superseded may be the current one again: the store knows."""
        load = self.load
        before = generation and history.last_run(conn, str(load.bucket), str(load.object_name), generation)
        if not before:
            return False
        load.run = before[0] + 1
        return not load.forced and before[1] != "superseded"

    def _superseded(self, conn: connection, announced: str) -> dict[str, Any]:
        load = self.load
        if load.run > 1 and not load.forced:
            return load.as_fields() | {"state": "duplicate"}
        load.generation, load.state, load.reason_code = announced, "superseded", "object.superseded"
        load.reason = "a newer generation of the object stands in the bucket; that one is loaded"
        history.record(conn, load)
        return load.as_fields()

    def _note_known_content(self, conn: connection) -> None:
        """Tell, without judging it, that the same bytes came before, under another name or as another generation.

        Where both objects have a crc32c it says so; else an equal etag does, and an etag that differs says nothing:
        Cloud Storage's belongs to the generation, that of an S3 upload in parts depends on their size.
        """
        load = self.load
        with conn.cursor() as cursor:
            cursor.execute(
                "select id from ingest_status.ingest_status where ((crc32c = %(crc32c)s and file_size = %(size)s)"
                "  or (etag = %(etag)s and file_size = %(size)s and (crc32c is null or %(crc32c)s::text is null)))"
                " and (bucket, object_name, generation) <> (%(bucket)s, %(name)s, %(generation)s)"
                " and state = 'loaded' order by id desc limit 1",
                {
                    "crc32c": load.crc32c,
                    "etag": load.etag,
                    "size": load.file_size,
                    "bucket": load.bucket,
                    "name": load.object_name,
                    "generation": load.generation,
                },
            )
            if found := cursor.fetchone():
                load.details["content_seen_before"] = found[0]

    def _load_rows(self, conn: connection, table: Table, info: ObjectInfo) -> int:
        """Judge and write every row, merge, record; returns how many rows wait now."""
        load = self.load
        with conn.cursor() as cursor:  # a restore of this table holds it exclusively while it applies
            cursor.execute("select pg_advisory_xact_lock_shared(hashtextextended(%s, 0))", (f"table:{table.key}",))
        load_id = int(load.id or 0)  # run() took it
        statements = Statements(table)
        limits = thresholds.Limits.of(table, forced=load.forced)
        rows_before = thresholds.rows_before(conn, statements, limits)
        writer = _Writer(self, conn, statements, limits)
        try:
            writer.stream(info)
            writer.merge(rows_before)
            thresholds.check_all(limits, load.counts)
        except thresholds.Reached as reached:
            thresholds.keep_rejects(self.services, conn, load, reached)
            return 0
        parked = load.counts.pending
        close_earlier_generations(conn, load)
        if parked:
            after_parking(conn, statements, load_id)
        if writer.names_rejects:
            self._close_mended(conn, table)
        history.record(conn, load)
        self._record_part(conn, info)
        return parked

    def _close_mended(self, conn: connection, table: Table) -> None:
        """Close the open rejects of this table that rows of the file named in ``_reject_id``."""
        with conn.cursor() as cursor:
            cursor.execute("analyze pg_temp.mended")
            cursor.execute(
                "update ingest_status.rejects r set closed_as = 'mended', closed_at = clock_timestamp(),"
                " closed_by_load = %s from pg_temp.mended m, ingest_status.ingest_status l"
                " where r.load_id = m.load_id and r.record_number = m.record_number"
                " and r.closed_as is null and l.id = r.load_id and l.table_name = %s",
                (self.load.id, table.key),
            )
            self.load.details["rejects_mended"] = cursor.rowcount

    def _record_part(self, conn: connection, info: ObjectInfo) -> None:
        """The whole object is one part; a file that is split has one row for each range."""
        with conn.cursor() as cursor:
            cursor.execute(
                "insert into ingest_status.parts (load_id, part_number, first_byte, end_byte, rows_read)"
                " values (%s, 1, 0, %s, %s)",
                (self.load.id, info.size, self.load.counts.read),
            )

    def _wake(self, table: Table, parked: int) -> dict[str, str]:
        """Ask for a drain if rows may wait for what this load brought; the sweep is the net.

        The load has committed: whatever the asking meets, its event is done, and the log line says what it met.
        """
        is_parent = bool(self.services.dictionary.children_of(table.key))
        if not parked and not (is_parent and self.load.counts.inserted):
            return {}
        try:
            if self._any_waits():
                self.services.send(events.make(events.PENDING_DRAIN, {}))
        except RowdockError as error:
            return {"drain_not_sent": error.code}
        except psycopg2.Error as error:
            return {"drain_not_sent": translate(error).code}
        return {}

    def _fold(self) -> dict[str, Any]:
        """Take the many deltas of a large load into the roll-up: until then each read of a metric adds them up.

        The load has committed, and the sweep folds what is left: a failure is a matter for the log line.
        """
        if self.load.counts.inserted + self.load.counts.updated <= FOLD_ABOVE_ROWS:
            return {}
        try:
            with self.services.database.transaction(deadline_s=FOLD_DEADLINE_S, lock_wait_s=FOLD_LOCK_WAIT_S) as conn:
                return {"deltas_folded": rollup.fold(conn, at_most=FOLDED_DELTAS) or 0}
        except RowdockError as error:
            return {"not_folded": error.code}

    def _any_waits(self) -> bool:
        with self.side.cursor() as cursor:
            cursor.execute("select exists (select from ingest_status.pending)")
            return bool(cursor.fetchone()[0])  # type: ignore[index]  # a select exists gives one row


class _Writer:
    """Takes judged blocks apart and puts each kind of row on its way."""

    def __init__(self, loading: _Loading, conn: connection, statements: Statements, limits: thresholds.Limits) -> None:
        self._loading = loading
        self._conn = conn
        self._statements = statements
        self._limits = limits
        self._load = loading.load
        self._doubles = self._waiting_doubles = self._staged = 0
        self._seen = SeenKeys()
        self._live = LiveKeys(loading.side, statements)
        self._dialect: dialect.Dialect
        self.names_rejects = False

    def stream(self, info: ObjectInfo) -> None:
        """Read the pinned generation and send its rows; a threshold that is reached on the way ends it early."""
        load, services = self._load, self._loading.services
        sender = Sender(self._conn, self._statements.targets())
        try:
            with services.store.open_read(info.bucket, info.name, info.generation) as raw:
                text = source.decoded(raw, self._statements.table, name=info.name)
                decoded = Peeked(text, HEAD_BYTES)
                self._note_transformations(text)
                found = self._dialect = dialect.detect(self._statements.table, decoded.head, decoded.at_end)
                load.columns, load.delimiter = list(found.fields), found.delimiter.decode()
                if found.ignored:
                    load.details["ignored_columns"] = list(found.ignored)
                present = parent_lookup(self._loading.side, services.dictionary)
                for block in Judge(self._statements.table, found, present).blocks(decoded):
                    self._take(sender, block)
                    self._loading.attempt.progress(load.counts.read, decoded.bytes_read)
            sender.finish()
        except thresholds.Reached:
            sender.finish()
            raise
        except BaseException:
            sender.abort()
            raise

    def _note_transformations(self, text: source.Reader) -> None:
        """What stands between a record's offset and its place in the object, for whoever reads it again."""
        if text.compressed or text.transcoded:
            self._load.details["transformed"] = True
        if text.skipped_bytes:
            self._load.details["skipped_bytes"] = text.skipped_bytes

    def _take(self, sender: Sender, block: Judged) -> None:
        load_id, counts = int(self._load.id or 0), self._load.counts
        usable = np.flatnonzero(block.status != REJECTED)
        met = self._seen.add(block.key_codes[usable])
        first, again = usable[~met], usable[met]
        waits = block.status == PENDING
        pending, accepted = first[waits[first]], first[~waits[first]]
        live = self._live.which(block, accepted)
        self._send(sender, "rows", block.encode_rows, accepted[~live])
        self._send(sender, "stage", block.encode_staged, accepted[live])
        self._send(sender, "doubles", block.encode_doubles, again[~waits[again]])
        for kind, rows in (("pending", pending), ("waiting_doubles", again[waits[again]])):
            self._send(sender, kind, lambda chosen: block.encode_pending(chosen, load_id), rows)
        rejected = np.flatnonzero(block.status == REJECTED)
        self._send(sender, "rejects", lambda chosen: block.encode_rejects(chosen, load_id), rejected)
        self._staged += int(live.sum())
        self._doubles += int((~waits[again]).sum())
        self._waiting_doubles += int(waits[again].sum())
        counts.read += block.n
        counts.inserted += len(accepted) - int(live.sum())
        counts.pending += len(pending)
        counts.rejected += len(rejected)
        counts.reasons.update(block.reason_counts())
        self._send_mended(sender, block)
        self._note_last_id(block, accepted)
        thresholds.check_block(self._limits, counts, block.status)

    def _send(
        self, sender: Sender, kind: str, encode: Callable[[NDArray[np.int64]], bytes], rows: NDArray[np.int64]
    ) -> None:
        if len(rows):
            sender.put(kind, encode(rows))

    def _send_mended(self, sender: Sender, block: Judged) -> None:
        """Set the ids of rejects that a mended file names aside in the database: there may be as many as rows."""
        if block.reject_ids:
            self.names_rejects = True
            ids = np.array(block.reject_ids, np.int64)
            sender.put("mended", tuples([Fixed(ids[:, 0], 8), Fixed(ids[:, 1], 8)], len(ids)))

    def _note_last_id(self, block: Judged, accepted: NDArray[np.int64]) -> None:
        if block.keys_exact and len(accepted):
            self._load.last_id = max(self._load.last_id or 0, int(block.key_codes[accepted].max()))

    def merge(self, rows_before: int | None) -> None:
        """Bring in what could not go straight: rows of known keys, doubles; then every row has its end.

        Raises:
            thresholds.Reached: more of the table's rows would change than its dictionary entry allows.
        """
        counts, s = self._load.counts, self._statements
        reason: dict[str, Any] = {
            "reason": f"{s.table.primary_key}.duplicate",
            "load_id": self._load.id,
            "table": s.table.key,
        }
        reason["parked"] = counts.pending > 0
        reason["exists"] = f"{s.table.primary_key}.{EXISTS}"
        with self._conn.cursor() as cursor:
            surely_double = self._seen.exact and s.table.key_column.kind in INTEGER_RANGE
            if self._doubles:
                cursor.execute("analyze pg_temp.doubles")
            if self._doubles and not surely_double:
                self._ensure_stage(cursor)
                cursor.execute(s.stage_first_doubles(), reason)
                self._staged += cursor.rowcount
                self._doubles -= cursor.rowcount
            if self._waiting_doubles and not surely_double:
                self._ensure_stage(cursor)
                cursor.execute(s.park_first_waiting_doubles(), reason)
                counts.pending += cursor.rowcount
                self._waiting_doubles -= cursor.rowcount
            straight, staged = counts.inserted > 0, self._staged > 0
            supersede_older(self._conn, s, int(self._load.id or 0), written=straight, staged=staged)
            if self._staged:
                updated, inserted = merge_stage(cursor, s)
                counts.updated += updated
                counts.inserted += inserted
                existing = self._reject_existing(cursor, "stage", reason)
                counts.unchanged += self._staged - updated - inserted - existing
                thresholds.check_updates(self._limits, updated, rows_before)
            if self._doubles:
                self._doubles -= self._reject_existing(cursor, "doubles", reason)
            self._settle(cursor, s.reject_doubles(), reason, self._doubles)
            if self._waiting_doubles:
                # Statistics know nothing of what this load parked: a nested loop may be chosen that reads it for each.
                cursor.execute("set local enable_nestloop = off")
                waiting_doubles.drop_same(self._conn, s, self._dialect, int(self._load.id or 0))
            self._settle(cursor, s.reject_waiting_doubles(), reason, self._waiting_doubles)
            cursor.execute("set local enable_nestloop to default")

    def _reject_existing(self, cursor: Any, temporary: str, reason: dict[str, Any]) -> int:
        """Where the table only adds, reject what differs from the row that had its key before; returns how many."""
        if not self._statements.only_adds:
            return 0
        cursor.execute(self._statements.reject_existing(temporary), reason)
        counts, rejected = self._load.counts, int(cursor.rowcount)
        counts.rejected += rejected
        if rejected:
            counts.reasons[reason["exists"]] += rejected
        return rejected

    def _ensure_stage(self, cursor: Any) -> None:
        cursor.execute("select to_regclass('pg_temp.stage') is null")
        if cursor.fetchone()[0]:
            cursor.execute(self._statements.create_stage())

    def _settle(self, cursor: Any, reject: Any, reason: dict[str, Any], doubles: int) -> None:
        if not doubles:
            return
        cursor.execute(reject, reason)
        counts = self._load.counts
        counts.rejected += cursor.rowcount
        counts.unchanged += doubles - cursor.rowcount
        if cursor.rowcount:
            counts.reasons[reason["reason"]] += cursor.rowcount


def merge_stage(cursor: Any, statements: Statements) -> tuple[int, int]:
    """Bring ``pg_temp.stage`` into the table: (updated, inserted); the other staged rows were the same already.

    A table that only adds has none updated; what differs from its live row is still to be rejected.

    Raises:
        DatabaseBusy: a row that was to be changed was removed meanwhile.
    """
    cursor.execute("analyze pg_temp.stage")
    cursor.execute("select count(*) from pg_temp.stage")
    if cursor.fetchone()[0] <= LOOKED_UP_ROWS:
        cursor.execute("set local enable_hashjoin = off; set local enable_mergejoin = off")
    cursor.execute(statements.add_from_stage() if statements.only_adds else statements.merge_from_stage())
    updated, inserted, to_change = cursor.fetchone()
    if updated < to_change:
        raise DatabaseBusy(f"another writer removed rows of {statements.table.key} that this load was to change")
    cursor.execute("set local enable_hashjoin to default; set local enable_mergejoin to default")
    return updated, inserted
