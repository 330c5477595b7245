"""One row by its id: read, put, changed, removed.

A single write leaves its line in the log and none in history, which has one row for each load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from functions.api import bodies, judging, parameters, preconditions, representations
from functions.api.judging import Fault
from functions.api.messages import Response
from functions.api.preconditions import IfMatch
from functions.api.problems import Problem
from functions.api.routes import Route
from functions.api.row_statements import ANY, DIGESTS, GIVEN, KEY, RowStatements
from functions.api.statements import Statement
from shared import events, reasons, rules
from shared.errors import ConstraintViolation, DatabaseBusy, RowdockError

if TYPE_CHECKING:
    from functions.api.messages import Call
    from shared.dictionary import Dictionary, Table

ATTEMPTS = 3  # of a statement that another writer came between
FOREIGN_KEY = "23503"
JSON = (representations.JSON,)


@dataclass(frozen=True, slots=True)
class Write:
    """One row to be written.

    Attributes:
        statement: ``create``, ``put`` or ``update`` of the table.
        values: for the statement's placeholders, the key and the condition included.
        faults: of the body; a row that has some is looked at only for the others.
        pointer: where the row stands in the body.
    """

    statement: Statement
    key: Any
    values: dict[str, Any]
    faults: list[Fault]
    pointer: str
    condition: IfMatch


def routes(dictionary: Dictionary) -> list[Route]:
    """The routes of every table's rows."""
    return [route for table in dictionary.tables.values() for route in Rows(table, dictionary).routes()]


class Rows:
    """The rows of one table."""

    def __init__(self, table: Table, dictionary: Dictionary) -> None:
        self._table = table
        self._path = f"/api/{table.api_name}/"
        self._statements = RowStatements(table, dictionary)

    def routes(self) -> list[Route]:
        """GET, PUT, PATCH and DELETE of one row."""
        # A text may hold slashes: servers decode %2F before we see it.
        path = self._path + ("<text:id>" if self._table.key_column.kind == "text" else "<id>")
        return [
            Route("GET", path, "rows.read", "read", self.read, self._table),
            Route("PUT", path, "rows.replace", "write", self.replace, self._table),
            Route("PATCH", path, "rows.change", "write", self.change, self._table),
            Route("DELETE", path, "rows.remove", "write", self.remove, self._table),
        ]

    def read(self, call: Call) -> Response:
        """The row, or those of its columns that ``select`` names; 304 where the caller has it already.

        Raises:
            Problem: 404.
        """
        representations.choose(call.request, JSON)
        statement = self._statements.read
        if call.request.query:
            names = parameters.once(call.request.query, ("select",))
            statement = self._statements.read_only(parameters.selected(self._table, names["select"]))
        key = self._key(call)
        found = call.rows(statement, {KEY: key})
        if not found:
            raise self._not_found(key)
        digest, row = found[0]
        if preconditions.is_known(call.request, digest):
            return Response(304, headers={"ETag": preconditions.strong(digest)})
        return _answer(200, digest, row)

    def replace(self, call: Call) -> Response:
        """PUT: the whole row, made where there is none.

        Raises:
            Problem: 412 where a condition does not hold, 422 with every reason.
        """
        parameters.once(call.request.query, ())
        new = preconditions.must_be_new(call.request)
        statements = self._statements
        statement = statements.update if "if-match" in call.request.headers else statements.put
        return self._written(call, self._write(call, statements.create if new else statement, JSON))

    def change(self, call: Call) -> Response:
        """PATCH: the columns that the body names (RFC 7396; a ``jsonb`` column is one value, and replaced whole).

        Raises:
            Problem: 404, 412 where a condition does not hold, 422 with every reason.
        """
        parameters.once(call.request.query, ())
        preconditions.refuse_if_none_match(call.request)
        media_types = (bodies.MERGE_PATCH, representations.JSON)
        return self._written(call, self._write(call, self._statements.update, media_types, partial=True))

    def remove(self, call: Call) -> Response:
        """DELETE.

        Raises:
            Problem: 404, 409 where rows refer to it, saying how many of which table, 412.
        """
        parameters.once(call.request.query, ())
        preconditions.refuse_if_none_match(call.request)
        key, condition = self._key(call), preconditions.if_match(call.request)
        values = {KEY: key} | _placeholders(condition)
        for _ in range(ATTEMPTS):
            found = _unless_key_broken(call, self._statements.remove, values)
            if found is None:
                self._refuse_if_in_use(call, key)
            elif found[0]:
                return Response(204)
            elif found[1] is None:
                raise self._not_found(key)
            elif condition.given:
                raise _changed()
        raise DatabaseBusy("the row, or rows that refer to it, come and go")

    def _write(self, call: Call, statement: Statement, media_types: tuple[str, ...], *, partial: bool = False) -> Write:
        """What the request asks to write.

        ``{"data": {...}}`` is the envelope, also for a table that has a column ``data``; else the object is the row.
        """
        key, condition = self._key(call), preconditions.if_match(call.request)
        body = bodies.read_json(call.request, media_types)
        enveloped = isinstance(body, dict) and body.keys() == {"data"}
        row = body["data"] if enveloped else body
        judged = judging.judge_row(self._table, row, partial=partial, key_required=False)
        primary_key = self._table.primary_key
        if judged.values.get(primary_key, key) != key:
            judged.faults.append(Fault(f"{primary_key}.{reasons.KEY_CHANGED}", primary_key))
        given = {GIVEN + column.name: column.name in judged.values for column in self._table.columns}
        values = dict.fromkeys(self._table.by_name) | judged.values | given | {KEY: key} | _placeholders(condition)
        return Write(statement, key, values, judged.faults, "/data" if enveloped else "", condition)

    def _written(self, call: Call, write: Write) -> Response:
        statement = self._statements.look if write.faults else write.statement
        for _ in range(ATTEMPTS):
            found = _unless_key_broken(call, statement, write.values)
            if found is None:
                continue  # a parent left between the look at it and the key's own check
            lacking, before, *written = found
            if written and written[0] is not None:
                return self._done(call, write.key, *written)
            self._refuse(call, write, before)
            self._refuse_faults(write, lacking)
            if write.condition.given:
                raise _changed()  # between the look at it and its lock
            if write.statement is self._statements.create:
                raise self._exists(write.key)  # since then
        raise DatabaseBusy("the row, or a parent of it, comes and goes")

    def _done(self, call: Call, key: Any, created: bool, digest: str, row: str, awaited: bool) -> Response:
        if awaited:
            _wake(call)
        headers = {"Location": self._path + quote(str(key), safe="")} if created else {}
        if call.request.preferences.get("return") == "minimal":
            headers |= {"Preference-Applied": "return=minimal", "ETag": preconditions.strong(digest)}
            return Response(201 if created else 204, headers=headers)
        return _answer(201 if created else 200, digest, row, headers)

    def _refuse(self, call: Call, write: Write, before: str | None) -> None:
        """Raise what the row that is there, or that none is there, forbids."""
        if before is None and call.request.method == "PATCH":
            raise self._not_found(write.key)
        if before is not None and write.statement is self._statements.create:
            raise self._exists(write.key)
        if not write.condition.allows(before):
            raise _changed()

    def _refuse_faults(self, write: Write, lacking: Sequence[str]) -> None:
        absent = [Fault(f"{name}.{reasons.PARENT_MISSING}", name) for name in lacking]
        if faults := write.faults + absent:
            errors = [
                {
                    "pointer": write.pointer + ("" if fault.member is None else bodies.token(fault.member)),
                    "code": fault.code,
                    "detail": reasons.describe(fault.code, self._table),
                }
                for fault in faults
            ]
            detail = f"The row breaks {len(errors)} of the data rules; nothing was changed."
            raise Problem(422, "row.invalid", detail, errors=errors)

    def _refuse_if_in_use(self, call: Call, key: Any) -> None:
        """Count what refers to the row; only on the way to an answer that needs it."""
        [counts] = call.rows(self._statements.count_users, {KEY: key})
        users = [
            {"table": child.api_name, "column": column.name, "rows": rows}
            for (child, column), rows in zip(self._statements.children, counts, strict=True)
            if rows
        ]
        if users:
            told = " and ".join(f"{user['rows']} of {user['table']} ({user['column']})" for user in users)
            detail = f"{self._table.api_name} {_shown(key)} is in use by {told}: give them another, or remove them."
            raise Problem(409, "row.in_use", detail, in_use=users)

    def _key(self, call: Call) -> Any:
        """The id in the path, as PostgreSQL takes it.

        Raises:
            Problem: 404 where no row can have it.
        """
        text = call.parameters["id"]
        value, code = rules.judge(self._table.key_column, text)
        if code is not None or value is None:
            raise self._not_found(text)
        return value if isinstance(value, int) else rules.canonical(value)

    def _not_found(self, key: Any) -> Problem:
        return Problem(404, "row.not_found", f"{self._table.api_name} has no row {_shown(key)}.")

    def _exists(self, key: Any) -> Problem:
        detail = f"{self._table.api_name} has a row {_shown(key)} already, and If-None-Match wants none."
        return Problem(412, "request.precondition", detail)


def _unless_key_broken(call: Call, statement: Statement, values: dict[str, Any]) -> tuple[Any, ...] | None:
    """The statement's row; None where a foreign key refused what it wrote."""
    try:
        return call.rows(statement, values)[0]
    except ConstraintViolation as error:
        if error.sqlstate != FOREIGN_KEY:
            raise
        return None


def _placeholders(condition: IfMatch) -> dict[str, Any]:
    return {ANY: condition.digests is None, DIGESTS: list(condition.digests or ())}


def _answer(status: int, digest: str, row: str, headers: dict[str, str] | None = None) -> Response:
    tag = {"ETag": preconditions.strong(digest)}
    return Response(status, b'{"data":%b}' % row.encode(), headers=tag | (headers or {}))


def _changed() -> Problem:
    detail = "The row is not one that If-Match names: somebody changed or removed it. Read it again, and decide anew."
    return Problem(412, "request.precondition", detail)


def _shown(key: Any) -> str:
    return str(key)[:100]


def _wake(call: Call) -> None:
    """Have the rows brought in that wait for this one. The trigger left a wake-up, which the sweep finds anyway."""
    try:
        call.services.send(events.make(events.PENDING_DRAIN, {}))
    except RowdockError as error:
        call.line.update(drain_not_asked_for=error.code)
