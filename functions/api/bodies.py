"""Bodies of requests: JSON that is exactly what was sent, or a problem; never a surprise further in."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NoReturn

from functions.api import representations
from functions.api.problems import Problem

if TYPE_CHECKING:
    from functions.api.messages import Request

MERGE_PATCH = "application/merge-patch+json"
BOM = b"\xef\xbb\xbf"


class JsonNumber(float):
    """A number with fraction or exponent, which keeps its digits: ``numeric`` and ``jsonb`` hold more than a float."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> JsonNumber:
        """The number that ``text`` is."""
        number = super().__new__(cls, text)
        number.text = text
        return number


class _Doubled(ValueError):
    """An object has a name twice: which of the two is meant cannot be told (RFC 8259, 4)."""


def read_json(request: Request, media_types: tuple[str, ...] = (representations.JSON,)) -> Any:
    """What the body says: UTF-8, with or without BOM. A body without Content-Type is taken for JSON.

    Raises:
        Problem: 415 for another media type or charset; 400 for what is no JSON (NaN is none) or has a name twice.
    """
    _check_media_type(request, media_types)
    try:
        text = request.body.removeprefix(BOM).decode()
        return json.loads(
            text, parse_float=JsonNumber, parse_constant=_no_constant, object_pairs_hook=_object_without_doubles
        )
    except _Doubled as error:
        raise _malformed(f"an object has the name {str(error)[:100]!r} twice") from None
    except UnicodeDecodeError as error:
        raise _malformed(f"byte {error.start} is no UTF-8") from None
    except json.JSONDecodeError as error:
        raise _malformed(f"line {error.lineno} column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise _malformed("arrays and objects nest too deep") from None
    except ValueError:  # an integer of thousands of digits, or a constant
        raise _malformed("a number is not one that can be held") from None


def read_object(request: Request, known: Collection[str]) -> dict[str, Any]:
    """The body's object, whose members are all ``known``.

    Raises:
        Problem: as ``read_json``; 400 for what is no object or has a member that is unknown.
    """
    found = read_json(request)
    if not isinstance(found, dict):
        raise Problem(400, "request.malformed", "The body must be one JSON object.")
    if unknown := sorted(set(found) - set(known)):
        detail = f"There is no such member; known are {', '.join(known)}."
        raise malformed("/" + unknown[0].replace("~", "~0").replace("/", "~1"), detail)
    return found


def malformed(pointer: str, detail: str) -> Problem:
    """400 that points at the member."""
    shown = pointer[:200].encode("utf-8", "replace").decode()
    return Problem(400, "request.malformed", detail, errors=[{"pointer": shown, "detail": detail}])


def _check_media_type(request: Request, media_types: tuple[str, ...]) -> None:
    media_type, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if media_type.strip() not in ("", *media_types) or charset not in ("", "utf-8", "utf8"):
        detail = f"Content-Type is not one that is taken here: {' or '.join(media_types)}, in UTF-8."
        raise Problem(415, "request.media_type", detail, headers={"Accept": ", ".join(media_types)})


def _malformed(what: str) -> Problem:
    return Problem(400, "request.malformed", f"The body is not JSON that can be read: {what}.")


def _no_constant(_name: str) -> NoReturn:
    raise ValueError


def _object_without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Doubled(next(name for name in names if names.count(name) > 1))
    return found
