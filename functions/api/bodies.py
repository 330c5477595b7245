"""What a request's body holds: JSON, one JSON value a line, or CSV; read whole, and judged by nobody yet."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from functions.api.judging import LongInteger, Number
from functions.api.problems import Problem
from functions.api.representations import CSV, JSON, NDJSON

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from functions.api.messages import Request
    from shared.dictionary import Table

MEDIA_TYPES = (JSON, NDJSON, CSV)
MERGE_PATCH = "application/merge-patch+json"
# Python reads integers of at most 4,300 digits, and looks at longer ones in quadratic time where it is told to.
MOST_DIGITS = 40


@dataclass(frozen=True, slots=True)
class Line:
    """A record of a CSV body.

    Attributes:
        fields: by column, or None where their number is not that of the header.
        raw: the fields as they came.
    """

    fields: dict[str, str] | None
    raw: Sequence[str]


@dataclass(frozen=True, slots=True)
class Sent:
    """The items of a body.

    Attributes:
        items: values of JSON, or ``Line``.
        places: JSON Pointer (RFC 6901) of each item, without its number.
        numbered: whether it has one; an object alone has none.
    """

    items: list[Any]
    places: str = "/data/"
    numbered: bool = True

    def pointer(self, index: int, member: str | None) -> str:
        """Where in the body the item, or its member, stands."""
        item = f"{self.places}{index}" if self.numbered else self.places
        return item if member is None else item + token(member)


def token(member: str) -> str:
    """The part of a JSON Pointer that leads to a member (RFC 6901, 3 and 4)."""
    return "/" + member.replace("~", "~0").replace("/", "~1")


def media_type(request: Request, taken: Sequence[str] = MEDIA_TYPES) -> str:
    """Which of ``taken`` the body is; JSON where nothing is said.

    Raises:
        Problem: 415, with what is taken; also for a body that is compressed.
    """
    if request.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        detail = "The body is taken as it is: send it without Content-Encoding."
        raise Problem(415, "request.media_type", detail, headers={"Accept-Encoding": "identity"})
    name, _, parameters = (request.headers.get("content-type") or JSON).partition(";")
    name = name.strip().lower()
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]*)", parameters, re.IGNORECASE)
    if name not in taken or (charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii")):
        detail = f"The body may be {', '.join(taken)}, in UTF-8; its Content-Type says something else."
        raise Problem(415, "request.media_type", detail, headers={"Accept-Post": ", ".join(taken)})
    return name


def rows(request: Request, table: Table) -> Sent:
    """The rows that the body lists: ``{"data": [...]}``, ``{"data": {...}}``, a bare list or object; NDJSON; CSV.

    Raises:
        Problem: 400 when it cannot be read, 415 for another media type.
    """
    kind = media_type(request)
    if kind == CSV:
        return Sent(_records(request.body, table))
    if kind == NDJSON:
        return Sent(
            [_line(text, number) for number, text in enumerate(_text(request.body).split("\n"), 1) if text.strip()]
        )
    document = parse_json(request.body)
    places = "/"
    if type(document) is dict and "data" in document and (len(document) == 1 or "data" not in table.by_name):
        if len(document) > 1:
            other = next(name for name in document if name != "data")
            raise malformed(f"Beside `data` the body has {other[:100]!r}, which means nothing here.")
        document, places = document["data"], "/data/"
    if type(document) is list:
        return Sent(document, places)
    if type(document) is dict:
        return Sent([document], places.rstrip("/"), numbered=False)
    raise malformed('The body is no list of rows: send {"data": [{...}, ...]}.')


def read_json(request: Request, taken: Sequence[str] = (JSON,)) -> Any:
    """The JSON document of the body.

    Raises:
        Problem: 400 when it cannot be read, 415 for another media type.
    """
    media_type(request, taken)
    return parse_json(request.body)


def read_object(request: Request, known: Collection[str]) -> dict[str, Any]:
    """The body's object, whose members are all ``known``.

    Raises:
        Problem: as ``read_json``; 400 for what is no object or has a member that is unknown.
    """
    found = read_json(request)
    if not isinstance(found, dict):
        raise malformed("The body must be one JSON object.")
    if unknown := sorted(set(found) - set(known)):
        raise malformed_at(token(unknown[0]), f"There is no such member; known are {', '.join(known)}.")
    return found


def parse_json(body: bytes) -> Any:
    """The JSON document of a body; numbers with a fraction come as ``Number``, very long integers as ``LongInteger``.

    Raises:
        Problem: 400, with the place.
    """
    return _decode(_text(body), "The body")


def _line(text: str, number: int) -> Any:
    return _decode(text, f"Line {number}")


def _decode(text: str, what: str) -> Any:
    try:
        try:
            return DECODER.decode(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer of more digits than Python reads
            return PATIENT_DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise malformed(f"{what} is no JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    except RecursionError:
        raise malformed(f"{what} nests too deep.") from None


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise malformed(f"The body is no UTF-8: byte {error.start} belongs to no character.") from None


def _refuse(name: str) -> NoReturn:
    raise malformed(f"The body is no JSON: {name} is no number.")


def _long_integer(text: str) -> int | LongInteger:
    return int(text) if len(text) <= MOST_DIGITS else LongInteger(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A member that comes twice has two values: none of them is silently the one that counts."""
    made = dict(pairs)
    if len(made) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise malformed(f"The member {twice[:100]!r} comes twice in one object.")
    return made


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=Number, parse_constant=_refuse)
PATIENT_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Number, parse_constant=_refuse, parse_int=_long_integer
)


def _records(body: bytes, table: Table) -> list[Line]:
    reader = csv.reader(io.StringIO(_text(body), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if unknown := [name for name in header if name not in table.by_name]:
            raise malformed(f"The CSV's first line names the columns; {table.api_name} has no {unknown[0][:100]!r}.")
        if not header or len(set(header)) < len(header):
            raise malformed("The CSV's first line names each column once.")
        return [_record(header, fields) for fields in reader if fields]
    except csv.Error as error:
        raise malformed(f"Line {reader.line_num} is no CSV: {error}.") from None


def _record(header: list[str], fields: list[str]) -> Line:
    return Line(dict(zip(header, fields, strict=True)) if len(fields) == len(header) else None, fields)


def malformed(detail: str) -> Problem:
    """400: the body cannot be read."""
    return Problem(400, "request.malformed", detail)


def malformed_at(pointer: str, detail: str) -> Problem:
    """400 that points at the member (RFC 6901)."""
    shown = pointer[:200].encode("utf-8", "replace").decode()
    return Problem(400, "request.malformed", detail, errors=[{"pointer": shown, "detail": detail}])
