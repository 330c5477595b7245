"""Lists of a table's rows: filtered, sorted, page by page, as JSON, CSV or NDJSON made in SQL, in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

from psycopg2 import DataError, sql

from functions.api import columns, filters, paging, parameters, representations
from functions.api.filters import Filter
from functions.api.messages import Response
from functions.api.paging import SortKey
from functions.api.representations import CSV, JSON, NDJSON
from functions.api.routes import Route
from functions.api.statements import Statement
from shared.errors import DatabaseMisuse

if TYPE_CHECKING:
    from functions.api.messages import Call
    from shared.dictionary import Column, Dictionary, Table

OFFERED = (JSON, CSV, NDJSON)
PARAMETERS = ("page_size", "page_token", "sort", "select")  # a column of such a name cannot be filtered by
LONGEST_QUERY = 8000  # bytes as in a URL: the link to the next page repeats it in a header
COUNTS = ("exact", "estimated")
SEPARATORS = {JSON: ",", NDJSON: "\n", CSV: "\r\n"}  # RFC 4180 ends records with CR LF
KEPT_STATEMENTS = 256
ROW_NUMBER = sql.Identifier("t", "#")  # no column's name has a #
TOTAL = "X-Total-Count"


class Shape(NamedTuple):
    """All that a list's statement depends on; its values do not."""

    media_type: str
    selected: tuple[str, ...]
    sort: tuple[tuple[str, bool], ...]
    filters: tuple[tuple[str, ...], ...]
    after_nulls: tuple[bool, ...] | None
    counted: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """One page, as the caller asks for it.

    Attributes:
        after: keys of the last row of the page before; None for the first page.
        digest: names the list that the page is of.
    """

    media_type: str
    size: int
    selected: tuple[Column, ...]
    sort: tuple[SortKey, ...]
    filters: list[Filter]
    after: list[str | None] | None
    digest: str
    count: str | None

    @property
    def shape(self) -> Shape:
        """What its statement is made from."""
        return Shape(
            self.media_type,
            tuple(column.name for column in self.selected),
            tuple(key.shape for key in self.sort),
            tuple(wanted.shape for wanted in self.filters),
            None if self.after is None else tuple(value is None for value in self.after),
            self.count == "exact",
        )

    @property
    def values(self) -> dict[str, Any]:
        """For the placeholders of its statement."""
        after = {paging.placeholder(n): value for n, value in enumerate(self.after or ())}
        return {_filter_value(n): f.argument for n, f in enumerate(self.filters)} | after | {"size": self.size}


def routes(dictionary: Dictionary) -> list[Route]:
    """The list of every table."""
    return [
        Route("GET", f"/api/{table.api_name}", "rows.list", "read", Listing(table).page, table)
        for table in dictionary.tables.values()
    ]


class Listing:
    """The lists of one table."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._statement = lru_cache(maxsize=KEPT_STATEMENTS)(self._compose)

    def page(self, call: Call) -> Response:
        """One page, and the way to the next one: a token in the body of JSON, a link in the header of every answer.

        Raises:
            Problem: 400 for a parameter that is not understood, 406.
        """
        wanted = self._wanted(call)
        [(rows, goes_on, last, *exact)] = self._rows(call, wanted)
        count = exact[0] if exact else self._estimate(call, wanted) if wanted.count else None
        next_token = paging.token(wanted.digest, last) if goes_on else None
        headers = {} if next_token is None else {"Link": self._link(call, next_token)}
        if count is not None:
            headers |= {"Preference-Applied": f"count={wanted.count}", TOTAL: str(count)}
        body = _body(wanted, rows, next_token, count)
        return Response(200, body, representations.CONTENT_TYPES[wanted.media_type], headers)

    def _wanted(self, call: Call) -> Wanted:
        request, table = call.request, self._table
        media_type = representations.choose(request, OFFERED)
        if len(urlencode(request.query, errors="replace")) > LONGEST_QUERY:
            raise parameters.refused(request.query[0][0], f"the query is longer than {LONGEST_QUERY} bytes")
        own = [pair for pair in request.query if pair[0] in PARAMETERS or pair[0] not in table.by_name]
        given = parameters.once(own, (*PARAMETERS, *table.by_name))
        found = filters.read(table, [pair for pair in request.query if pair not in own])
        sort = paging.sort_keys(table, given.get("sort"))
        named = sorted((f.column.name, f.operator, f.value) for f in found)
        digest = paging.digest(table.key, named, [key.shape for key in sort])
        token = given.get("page_token")
        count = request.preferences.get("count")
        return Wanted(
            media_type,
            paging.size(given.get("page_size")),
            parameters.selected(table, given.get("select")),
            sort,
            found,
            paging.read_token(token, digest, sort) if token else None,
            digest,
            count if count in COUNTS else None,
        )

    def _rows(self, call: Call, wanted: Wanted) -> list[tuple[Any, ...]]:
        try:
            return call.rows(self._statement(wanted.shape), wanted.values)
        except DatabaseMisuse as error:
            # The rules have judged every value but a token's, which are what rows held, and may break the rules.
            if wanted.after is not None and isinstance(error.__cause__, DataError):
                raise paging.foreign_token() from error
            raise

    def _estimate(self, call: Call, wanted: Wanted) -> int:
        """What the planner expects, from statistics and the size of the table; a second round trip."""
        conditions = [filters.condition(self._table, f.shape, _filter_value(n)) for n, f in enumerate(wanted.filters)]
        statement = sql.SQL("explain (format json) select from {} t {}").format(
            columns.name(self._table), _where(conditions)
        )
        [([plan],)] = call.rows(statement, wanted.values)
        return int(plan["Plan"]["Plan Rows"])

    def _link(self, call: Call, next_token: str) -> str:
        query = [pair for pair in call.request.query if pair[0] != "page_token"] + [("page_token", next_token)]
        return f'</api/{self._table.api_name}?{urlencode(query, quote_via=quote)}>; rel="next"'

    def _compose(self, shape: Shape) -> Statement:
        """One row: the page's rows as text, whether more follow, the last one's keys, and the count where asked for."""
        sort = tuple(
            SortKey(self._table.by_name[name], descending, name == self._table.primary_key)
            for name, descending in shape.sort
        )
        matching = [filters.condition(self._table, f, _filter_value(n)) for n, f in enumerate(shape.filters)]
        following = [] if shape.after_nulls is None else [paging.after(sort, shape.after_nulls)]
        counted = sql.SQL(", (select count(*) from {} t {})").format(columns.name(self._table), _where(matching))
        return Statement(
            sql.SQL(
                "select coalesce(string_agg({shown}, {separator} order by {number}) filter (where {number} <= {size}),"
                " ''), count(*) > {size},"
                " max(case when {number} = {size} then json_build_array({keys})::text end) {counted}"
                ' from (select t.*, row_number() over () as "#"'
                " from (select t.* from {table} t {where} order by {order} limit {size} + 1) t) t"
            ).format(
                shown=self._shown(shape),
                separator=sql.Literal(SEPARATORS[shape.media_type]),
                number=ROW_NUMBER,
                size=sql.Placeholder("size"),
                keys=sql.SQL(", ").join(sql.SQL("{}::text").format(key.expression) for key in sort),
                counted=counted if shape.counted else sql.SQL(""),
                table=columns.name(self._table),
                where=_where(matching + following),
                order=paging.order(sort),
            )
        )

    def _shown(self, shape: Shape) -> sql.Composable:
        selected = [self._table.by_name[name] for name in shape.selected]
        return columns.as_csv(selected) if shape.media_type == CSV else columns.as_json(self._table, selected)


def _body(wanted: Wanted, rows: str, next_token: str | None, count: int | None) -> bytes:
    if wanted.media_type == JSON:
        told = f'"{next_token}"' if next_token else "null"
        counted = "" if count is None else f',"count":{count}'
        return f'{{"data":[{rows}],"next_page_token":{told}{counted}}}'.encode()
    end = SEPARATORS[wanted.media_type]
    header = ",".join(column.name for column in wanted.selected) + end if wanted.media_type == CSV else ""
    return (header + (rows + end if rows else "")).encode()


def _where(conditions: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL("where {}").format(sql.SQL(" and ").join(conditions)) if conditions else sql.SQL("")


def _filter_value(number: int) -> str:
    return f"filter{number}"
