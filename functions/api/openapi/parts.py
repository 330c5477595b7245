"""What operations share: parameters, headers, media, and the problems that they may answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from functions.api import filters, idempotency, listing, paging, problems
from functions.api.openapi.schemas import Schema, ref, value_example
from functions.api.representations import CSV, JSON, NDJSON
from shared.problems import MEDIA_TYPE

if TYPE_CHECKING:
    from shared.dictionary import Column, Table

Part = dict[str, Any]

TAG = r'(W/)?"[!#-+\-.-~]*"'
QUOTED_OR_NOT = r'("([^\u0000"\\]|\\[^\u0000])+"|[^\u0000",]*[^\u0000", \t\r\n][^\u0000",]*)'
# A word of a filter's pattern by kind: that a value is within the column's range, only the server can say.
VALUES = {
    "integer": "-?[0-9]{1,10}",
    "bigint": "-?[0-9]{1,19}",
    "numeric": r"-?[0-9]+(\.[0-9]+)?",
    "boolean": "(true|false)",
    "uuid": "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "date": "[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "timestamptz": "[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:.]+(Z|[+-][0-9]{2}:[0-9]{2})?)?",
}


def query(name: str, schema: Schema, description: str, **more: Any) -> Part:
    """A parameter of the query."""
    return {"name": name, "in": "query", "description": description, "schema": schema, **more}


def path(name: str, schema: Schema, description: str) -> Part:
    """A parameter of the path."""
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def header(name: str, schema: Schema, description: str, **more: Any) -> Part:
    """A header of the request."""
    return {"name": name, "in": "header", "description": description, "schema": schema, **more}


PAGE_SIZE = query(
    "page_size",
    {"type": "integer", "minimum": 1, "default": paging.DEFAULT_SIZE},
    f"Rows of a page; more than {paging.LARGEST_SIZE} are taken for that many. No list is cut without a next page.",
)
PAGE_TOKEN = query(
    "page_token",
    {"type": "string", "pattern": r"^[A-Za-z0-9_-]*$"},
    "`next_page_token` of the page before, which is of the same list, filters and order; empty for the first page.",
)
VALIDATE_ONLY = query(
    "validate_only", {"type": "boolean", "default": False}, "Judge everything, keys too, and write nothing."
)
IF_MATCH = header(
    "If-Match",
    {"anyOf": [{"type": "string", "enum": ["*"]}, {"type": "string", "pattern": rf"^{TAG}(, *{TAG})*$"}]},
    "Write only a row that has one of these ETags (`*`: any row that is there); else 412.",
    example='"9c1f"',
)
MUST_BE_NEW = header("If-None-Match", {"type": "string", "enum": ["*"]}, "Write only where there is no such row.")
IS_KNOWN = header(
    "If-None-Match", {"type": "string"}, "ETags that the caller has the answer of: 304 if it still holds."
)
IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    {
        "type": "string",
        "pattern": rf'^("([!#-\[\]-~]|\\["\\]){{1,{idempotency.LONGEST_KEY}}}"|[!#-~]{{1,{idempotency.LONGEST_KEY}}})$',
    },
    "The same request again within 24 hours has the same answer again, and is done once. A UUID serves well.",
)


def prefer(words: str) -> Part:
    """The ``Prefer`` header (RFC 7240), of which ``words`` count."""
    return header("Prefer", {"type": "string"}, f"{words}; any other preference is passed over.")


def of_list(table: Table) -> list[Part]:
    """The query of a table's list."""
    names = [column.name for column in table.columns]
    sortable = [column.name for column in table.columns if column.kind != "jsonb"]
    sort = [sign + name for name in sortable for sign in ("", "-")]
    return [
        PAGE_SIZE,
        PAGE_TOKEN,
        _words("sort", sort, "Columns in order of weight, `-` for descending; then the primary key.", paging.MOST_KEYS),
        select(names),
        *(of_filter(column) for column in table.columns if column.name not in listing.PARAMETERS),
    ]


def select(names: list[str]) -> Part:
    """The parameter that chooses columns."""
    return _words("select", names, "The columns of the answer, in this order; all of them without it.", len(names))


def _words(name: str, words: list[str], description: str, most: int) -> Part:
    items = {"type": "string", "enum": words}
    schema = {"type": "array", "items": items, "uniqueItems": True, "minItems": 1, "maxItems": most}
    return query(name, schema, description, style="form", explode=False)


def of_filter(column: Column) -> Part:
    """The parameter that filters by ``column``."""
    known = filters.operators(column)
    told = f"`operator.value` with {', '.join(known)}; several by repeating it, each operator once. All must hold."
    schema = {"type": "string", "pattern": filter_pattern(column), "examples": filter_examples(column)}
    return query(column.name, schema, told)


def filter_pattern(column: Column) -> str:
    """What a filter of ``column`` looks like; whether its value is one of the column, only the server says."""
    if column.kind == "jsonb":
        return r"^is\.(null|not_null)$"
    value = VALUES.get(column.kind, r"[^\u0000]*[^\u0000 \t\r\n][^\u0000]*")
    item = VALUES.get(column.kind, QUOTED_OR_NOT)
    ways = [rf"({'|'.join(filters.COMPARISONS)})\.{value}", rf"in\.\({item}(,{item})*\)", r"is\.(null|not_null)"]
    if column.kind == "text":
        ways.append(r"(like|ilike)\.([^\u0000\\]|\\[^\u0000])+")
    return f"^({'|'.join(ways)})$"


def filter_examples(column: Column) -> list[str]:
    """Filters that ``column`` takes."""
    if column.kind == "jsonb":
        return ["is.not_null"]
    value = str(value_example(column)).lower() if column.kind == "boolean" else str(value_example(column))
    return [f"gte.{value}", f"in.({value})", *(["ilike.*a*"] if column.kind == "text" else []), "is.not_null"]


# --- Answers

ETAG = {"ETag": ref("ETag", "headers")}
LOCATION = {"Location": ref("Location", "headers")}
APPLIED = {"Preference-Applied": ref("Preference-Applied", "headers")}
NEXT = {"Link": ref("Link", "headers")}
EVERY = {name: ref(name, "headers") for name in ("X-Request-Id", "Server-Timing")}


def text_header(description: str, **more: Any) -> Part:
    """A header of an answer, as a component."""
    return {"description": description, "schema": {"type": "string"}, **more}


HEADERS: dict[str, Part] = {
    "X-Request-Id": text_header("Names the request in the log; one that the caller gives is kept.", required=True),
    "Server-Timing": text_header("Milliseconds in the database and in the code.", required=True),
    "ETag": text_header("The strong entity tag of the answer.", required=True),
    "Location": text_header("Where what was made is read.", required=True),
    "Preference-Applied": text_header("The preferences that counted."),
    "Link": text_header('The next page, `rel="next"`, where there is one.'),
    "Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}},
    "WWW-Authenticate": text_header("The challenge (RFC 9110, 11.6.1)."),
    "Accept-Post": text_header("The media types that are taken."),
    "Idempotency-Replayed": {"description": "An earlier request was answered so.", "schema": {"const": "true"}},
}


def ok(description: str, content: Part | None = None, headers: Part | None = None, **more: Any) -> Part:
    """An answer that is no problem."""
    shown = {"content": content} if content else {}
    return {"description": description, "headers": EVERY | (headers or {}), **shown, **more}


def json(schema: Schema, example: Any = None) -> Part:
    """Content that is JSON."""
    return {JSON: {"schema": schema} | ({} if example is None else {"example": example})}


def text(media_type: str, example: str) -> Part:
    """Content that is text to JSON Schema."""
    return {media_type: {"schema": {"type": "string"}, "example": example}}


def lines(schema: Schema, example: Any, csv: str | None, ndjson: str | None) -> Part:
    """JSON, and the other forms that the same answer or request has."""
    found = json(schema, example)
    for media_type, written in ((CSV, csv), (NDJSON, ndjson)):
        found |= {} if written is None else text(media_type, written)
    return found


# --- Problems

STATUSES: dict[int, tuple[str, str, tuple[str, ...]]] = {  # component, what it says, further headers
    400: ("Unreadable", "The request, or a parameter of it, cannot be read.", ()),
    401: ("Unauthenticated", "No key or token that holds.", ("WWW-Authenticate",)),
    403: ("Forbidden", "The caller may not do this.", ("WWW-Authenticate",)),
    404: ("NotFound", "There is nothing of that name.", ()),
    406: ("NotAcceptable", "Accept names nothing that is offered.", ()),
    409: ("Conflict", "What is there stands against it.", ()),
    412: ("PreconditionFailed", "The row is not the one that If-Match or If-None-Match means.", ()),
    413: ("TooLarge", "The body is too long.", ()),
    415: ("UnsupportedMediaType", "The body's media type is not taken.", ("Accept-Post",)),
    422: ("Invalid", "The content breaks the data rules; every reason is named.", ()),
    500: ("Defect", "Rowdock failed; the log has it under the request's id.", ()),
    503: ("Unavailable", "Try again; detail says if something may have been done.", ("Retry-After",)),
    504: ("Deadline", "The time limit of a request was reached; nothing was changed.", ()),
}
CODES = {
    400: "request.malformed", 401: "access.unauthenticated", 403: "access.forbidden", 404: "row.not_found",
    406: "request.not_acceptable", 409: "row.in_use", 412: "request.precondition", 413: "request.too_large",
    415: "request.media_type", 422: "row.invalid", 500: "defect", 503: "unavailable", 504: "deadline",
}  # fmt: skip  # one of each status, for its example

PROBLEM: Schema = {
    "title": "What went wrong, where, and what to do (RFC 9457)",
    "type": "object",
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Leads to what the code means."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "format": "uri-reference"},
        "code": {"type": "string", "enum": sorted(problems.TITLES)},
        "errors": {"type": "array", "items": ref("Fault")},
    },
    "required": ["type", "title", "status", "detail", "instance", "code"],
}
FAULT: Schema = {
    "title": "One place that is wrong",
    "type": "object",
    "properties": {
        "detail": {"type": "string"},
        "pointer": {"type": "string", "description": "JSON Pointer into the body that was sent."},
        "parameter": {"type": "string"},
        "header": {"type": "string"},
        "code": {"type": "string", "description": "The reason, such as `hired_date.no_zone`; it never changes."},
        "index": {"type": "integer", "description": "The row's place in the batch, from 0."},
        "table": {"type": "string"},
        "reject_id": {"type": "string", "description": "Under which the row is kept among the rejects."},
    },
    "required": ["detail"],
}


def problem(status: int) -> tuple[str, Part]:
    """The problems of ``status`` as an answer, and the component's name."""
    name, description, more = STATUSES[status]
    code = CODES[status]
    example = {
        "type": problems.TYPE + code,
        "title": problems.TITLES[code],
        "status": status,
        "detail": description,
        "instance": "/requests/6f1d0c1e",
        "code": code,
    }
    headers = EVERY | {header: ref(header, "headers") for header in more}
    content = {MEDIA_TYPE: {"schema": ref("Problem"), "example": example}}
    return name, {"description": description, "headers": headers, "content": content}
