"""Batches of 1 to 1000 rows: added, written or removed in one statement; every row that is not in is told and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from functions.api import batch_sql, bodies, idempotency, parameters, problems
from functions.api.batch_sql import COUNTS, Kind
from functions.api.bodies import Sent
from functions.api.judging import Fault, Judged, judge_of
from functions.api.messages import JSON, Response
from functions.api.problems import Problem
from functions.api.records import as_record
from functions.api.routes import Route
from shared import events, reasons
from shared.errors import ConstraintViolation, DatabaseBusy, RowdockError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812  # as in messages

    from functions.api.messages import Call, Request
    from shared.dictionary import Dictionary, Table

MOST_ROWS = 1000
ATTEMPTS = 3
# Another writer came in between: a row has no end, a key lost its parent; a deadlock, a serialization failure.
ROWS_ADD_UP = "rows_add_up"
OVERTAKEN_CONSTRAINTS = (ROWS_ADD_UP, *idempotency.CONSTRAINTS)
OVERTAKEN_SQLSTATES = ("23503", "40P01", "40001")
# Ids that are passed over after such a failure, in case rows stand where the identity gives ids: rows put there by id.
PASSED_OVER = 10_000
SHOWN_CHARACTERS = 100
METHODS: tuple[tuple[str, Kind], ...] = (("POST", "add"), ("PUT", "write"), ("DELETE", "remove"))
OPERATIONS: dict[Kind, str] = {"add": "batch.add", "write": "batch.write", "remove": "batch.remove"}


def routes(dictionary: Dictionary) -> list[Route]:
    """The collection forms of every table, and the path for several tables at once."""
    statements = Statements(dictionary)
    found = [Route("POST", "/api/batch", "batch.several", "write", partial(several, statements))]
    for table in dictionary.tables.values():
        path = f"/api/{table.api_name}"
        for method, kind in METHODS:
            handler = partial(one_table, statements, kind)
            found.append(Route(method, path, OPERATIONS[kind], "write", handler, table))
    return found


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller prefers.

    Attributes:
        strict: all rows or none.
        data: the answer lists the rows that are in.
        validate_only: say what would happen, and write nothing.
        key: the Idempotency-Key.
        applied: the preferences that count, for ``Preference-Applied``.
    """

    strict: bool
    data: bool
    validate_only: bool
    key: str | None
    applied: tuple[str, ...]

    @classmethod
    def of(cls, request: Request) -> Options:
        """Read ``Prefer`` (RFC 7240), ``Idempotency-Key`` and the query.

        Raises:
            Problem: 400 for a parameter or a key that is none.
        """
        asked = parameters.once(request.query, ("validate_only",))
        validate_only = parameters.one_of(asked, "validate_only", ("true", "false"))
        prefer = request.preferences
        known = {"handling": ("strict", "lenient"), "return": ("minimal", "representation")}
        applied = tuple(f"{name}={prefer[name]}" for name, values in known.items() if prefer.get(name) in values)
        return cls(
            strict="handling=strict" in applied,
            data="return=minimal" not in applied,
            validate_only=validate_only == "true",
            key=idempotency.key_of(request),
            applied=applied,
        )


@dataclass(slots=True)
class Listed:
    """The rows of one table in a batch, judged.

    Attributes:
        faults: by number of the row.
        rows: what the statement takes, one JSON object a row.
    """

    table: Table
    sent: Sent
    faults: dict[int, list[Fault]] = field(default_factory=dict)
    rows: str = ""
    without_key: bool = False


class Statements:
    """The texts of the statements, made once for each kind and each set of tables."""

    def __init__(self, dictionary: Dictionary) -> None:
        self.dictionary = dictionary
        self._texts: dict[tuple[str, ...], str] = {}

    def text(self, kind: Kind, tables: Sequence[Table], conn: Connection) -> str:
        """The statement as psycopg2 takes it."""
        wanted = (kind, *(table.key for table in tables))
        if wanted not in self._texts:
            self._texts[wanted] = batch_sql.statement(kind, self.dictionary, tables).as_string(conn)
        return self._texts[wanted]


def one_table(statements: Statements, kind: Kind, call: Call) -> Response:
    """Add, write or remove the listed rows of the route's table.

    Raises:
        Problem: 400, 415 or 422: the batch as a whole cannot be taken.
        TransientError: the database cannot do it now; nothing was written.
    """
    assert call.table is not None  # noqa: S101  # a resource's route has one
    options = Options.of(call.request)
    sent = bodies.rows(call.request, call.table)
    check_size(len(sent.items))
    return _Batch(call, statements, kind, options, [_judged(call.table, sent, kind)]).run()


def several(statements: Statements, call: Call) -> Response:
    """Add the listed rows of several tables, parents first, in one transaction.

    Raises:
        Problem: 400, 415 or 422: the batch as a whole cannot be taken.
        TransientError: the database cannot do it now; nothing was written.
    """
    options = Options.of(call.request)
    bodies.media_type(call.request, (JSON,))
    document = bodies.parse_json(call.request.body)
    tables = {table.api_name: table for table in statements.dictionary.tables.values()}
    if type(document) is not dict:
        raise bodies.malformed(f"The body is no object with lists of rows under {', '.join(tables)}.")
    for name, items in document.items():
        if name not in tables:
            raise bodies.malformed(f"{name[:SHOWN_CHARACTERS]!r} is no table; there are {', '.join(tables)}.")
        if type(items) is not list:
            raise bodies.malformed(f"{name} is no list of rows.")
    check_size(sum(map(len, document.values())))
    listed = [
        _judged(table, Sent(document[name], f"/{name}/"), "add") for name, table in tables.items() if document.get(name)
    ]
    return _Batch(call, statements, "add", options, listed, is_several=True).run()


def check_size(rows: int) -> None:
    """Refuse a batch without rows, or with too many, before any of them is judged.

    Raises:
        Problem: 422.
    """
    if not 1 <= rows <= MOST_ROWS:
        detail = f"The batch has {rows} rows; 1 to {MOST_ROWS} are taken. Drop a file in the bucket for more."
        raise Problem(422, "batch.size", detail)


def _judged(table: Table, sent: Sent, kind: Kind) -> Listed:
    listed = Listed(table, sent)
    judge = _judge(table, kind)
    references = [column.name for column in table.columns if column.references]
    rows: list[dict[str, Any]] = []
    for number, item in enumerate(sent.items):
        values, faults = judge(item)
        if faults:
            listed.faults[number] = faults
            row: dict[str, Any] = {name: values[name] for name in references if name in values}
            row["#why"], row["#raw"] = as_record(table, item, faults)
            rows.append(row)
        else:
            rows.append(values)
            listed.without_key |= table.primary_key not in values
        rows[-1]["#i"] = number
    listed.rows = json.dumps(rows)
    return listed


def _judge(table: Table, kind: Kind) -> Callable[[Any], Judged]:
    judge = judge_of(table)
    needs_key = kind != "add" or table.key_column.kind not in batch_sql.INTEGERS

    def of_any(item: Any) -> Judged:
        if isinstance(item, bodies.Line):
            if item.fields is None:
                return Judged({}, [Fault(reasons.RECORD_COLUMN_COUNT, None)])
            if kind != "remove":
                return judge.texts(item.fields, key_required=needs_key)
            return judge.only_key(judge.texts(item.fields))
        return judge.key(item) if kind == "remove" else judge.row(item, key_required=needs_key)

    return of_any


@dataclass(slots=True)
class _Batch:
    """One batch on its way through the database."""

    call: Call
    statements: Statements
    kind: Kind
    options: Options
    listed: list[Listed]
    is_several: bool = False
    wakes: bool = False

    def run(self) -> Response:
        response = self._until_nobody_interferes()
        if self.wakes:
            self._wake()
        return response

    def _until_nobody_interferes(self) -> Response:
        for attempt in range(ATTEMPTS):
            self.wakes = False
            try:
                return self._once()
            except (ConstraintViolation, DatabaseBusy) as error:
                if not was_overtaken(error):
                    raise
                last = error
                if isinstance(error, ConstraintViolation) and error.constraint == ROWS_ADD_UP:
                    self._pass_over_ids(PASSED_OVER * 10**attempt)
        raise DatabaseBusy(f"other writers came in between {ATTEMPTS} times") from last

    def _once(self) -> Response:
        if self.options.validate_only:
            with self.call.transaction() as conn:
                response = self._write(conn)
                conn.rollback()
                self.wakes = False
            return response
        if self.options.key:
            return idempotency.once(self.call, self.options.key, self._write)
        with self.call.connection() as conn:
            return self._write(conn)

    def _write(self, conn: Connection) -> Response:
        """Do it, on a connection in autocommit or in a transaction; one statement."""
        tables = [listed.table for listed in self.listed]
        details = {"principal": self.call.principal.name, "operation": self._operation}
        parameters: dict[str, Any] = {f"rows{n}": listed.rows for n, listed in enumerate(self.listed)}
        parameters |= {"details": json.dumps(details), "strict": self.options.strict, "data": self.options.data}
        with conn.cursor() as cursor:
            cursor.execute(self.statements.text(self.kind, tables, conn), parameters)
            ended = [_Ended.of(row) for row in cursor.fetchall()]
        self.wakes = any(part.wakes for part in ended)
        self._log(ended)
        return self._answer(ended)

    @property
    def _operation(self) -> str:
        return "batch.several" if self.is_several else OPERATIONS[self.kind]

    def _pass_over_ids(self, ids: int) -> None:
        """Rows may stand where the identity gives ids: the next look begins further on. A sequence never goes back."""
        for listed in self.listed:
            if self.kind == "add" and listed.without_key:
                self.call.rows(
                    "select count(nextval(pg_get_serial_sequence(%s, %s))) from generate_series(1, %s)",
                    (f"{listed.table.schema}.{listed.table.key}", listed.table.primary_key, ids),
                )

    def _wake(self) -> None:
        """Rows that waited may go in now. A durable wake-up is left by the database: this one is for speed alone."""
        try:
            self.call.services.send(events.make(events.PENDING_DRAIN, {}))
        except RowdockError as error:
            self.call.line.update(wake_up=error.code)

    def _log(self, ended: list[_Ended]) -> None:
        total = _total(ended)
        self.call.line.update({f"rows_{name}": number for name, number in total.items() if number})
        self.call.line.update(loads=[part.load_id for part in ended])

    # --- The answer

    def _answer(self, ended: list[_Ended]) -> Response:
        errors = [e for listed, part in zip(self.listed, ended, strict=True) for e in self._errors(listed, part)]
        counts = _total(ended)
        if not counts["rolled_back"]:  # it says something of a batch that was refused alone
            del counts["rolled_back"]
        headers = {"Preference-Applied": ", ".join(self.options.applied)} if self.options.applied else {}
        if not self.options.validate_only:
            headers["Location"] = f"/api/ingests/{ended[0].load_id}"
        more = self._loads(ended) | {"counts": counts}
        if self.options.strict and errors and not self.options.validate_only:
            return self._refused(errors, headers, more)
        body = json.dumps(more | {"errors": errors}).encode()
        if self.options.data:
            body = b'{"data":' + self._data(ended) + b"," + body[1:]
        return Response(self._status(errors), body, headers=headers)

    def _status(self, errors: list[dict[str, Any]]) -> int:
        if self.options.validate_only:
            return 200
        return 207 if errors else 201 if self.kind == "add" else 200

    def _refused(self, errors: list[dict[str, Any]], headers: dict[str, str], more: dict[str, Any]) -> Response:
        detail = "Rows of the batch are rejected, and all or nothing was asked for: nothing was written."
        problem = Problem(422, "batch.rejected", detail, errors=errors, headers=headers, **more)
        return problems.response(problem, self.call.request.id)

    def _loads(self, ended: list[_Ended]) -> dict[str, Any]:
        if self.options.validate_only:
            return {}
        if not self.is_several:
            return {"ingest_id": ended[0].load_id}
        loads = {listed.table.api_name: part.load_id for listed, part in zip(self.listed, ended, strict=True)}
        return {"ingest_ids": loads}

    def _data(self, ended: list[_Ended]) -> bytes:
        lists = [f"[{part.data or ''}]" for part in ended]
        if not self.is_several:
            return lists[0].encode()
        names = (json.dumps(listed.table.api_name) for listed in self.listed)
        return ("{" + ",".join(f"{name}:{rows}" for name, rows in zip(names, lists, strict=True)) + "}").encode()

    def _errors(self, listed: Listed, part: _Ended) -> list[dict[str, Any]]:
        """One entry for each reason of each rejected row, those that were found here first."""
        found = []
        for number, added, detail in part.rejected:
            faults = [*listed.faults.get(number, ()), *(Fault(code, _member(code)) for code in added)]
            for fault in faults:
                told = _told(listed, number, fault, detail)
                if not self.options.validate_only:
                    told["reject_id"] = f"{part.load_id}-{number + 1}"
                if self.is_several:
                    told = {"table": listed.table.api_name} | told
                found.append(told)
        return found


@dataclass(frozen=True, slots=True)
class _Ended:
    """How the rows of one table ended, as the statement says it."""

    load_id: int
    counts: dict[str, int]
    data: str | None
    rejected: list[tuple[int, list[str], str | None]]
    wakes: bool

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> _Ended:
        _, load_id, *counts, data, rejected, wakes = row
        named = dict(zip(("received", *COUNTS), counts, strict=True))
        return cls(load_id, named, data, json.loads(rejected or "[]"), wakes)


def _total(ended: list[_Ended]) -> dict[str, int]:
    return {name: sum(part.counts[name] for part in ended) for name in ("received", *COUNTS)}


def _member(code: str) -> str:
    return code.rpartition(".")[0]


def _told(listed: Listed, number: int, fault: Fault, detail: str | None) -> dict[str, Any]:
    sentence = reasons.describe(fault.code, listed.table)
    if fault.code.endswith(f".{reasons.IN_USE}") and detail:
        sentence += f" ({detail})"
    elif (shown := _shown(listed, number, fault)) is not None:
        sentence += f": {shown}"
    place = listed.sent.pointer(number, fault.member)
    return {"index": number, "pointer": place, "code": fault.code, "detail": sentence}


def _shown(listed: Listed, number: int, fault: Fault) -> str | None:
    """The value that is wrong, or the name that is no column."""
    item = listed.sent.items[number]
    if isinstance(item, bodies.Line):
        item = item.fields
    if fault.code == reasons.RECORD_UNKNOWN_COLUMN:
        return json.dumps(str(fault.member)[:SHOWN_CHARACTERS])
    if not isinstance(item, dict) or fault.member not in item or fault.code.endswith(f".{reasons.MISSING}"):
        return None
    value = item[fault.member]
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return json.dumps(value[:SHOWN_CHARACTERS] if isinstance(value, str) else value)


def was_overtaken(error: ConstraintViolation | DatabaseBusy) -> bool:
    """Whether another writer came in between, so that the same batch may pass if it is made again."""
    if isinstance(error, ConstraintViolation):
        return error.constraint in OVERTAKEN_CONSTRAINTS or error.sqlstate in OVERTAKEN_SQLSTATES
    return getattr(error.__cause__, "pgcode", None) in OVERTAKEN_SQLSTATES
