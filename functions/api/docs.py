"""Pages to read: the API's description in Swagger UI, and what each problem means. Nothing of them is elsewhere.

Swagger UI's own files come from the wheel of ``flask-swagger-ui``, of which no code runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from functions.api import problem_guide, representations
from functions.api.messages import Response
from functions.api.problems import TITLES, Problem
from functions.api.routes import Route

if TYPE_CHECKING:
    from functions.api.messages import Call
    from shared.dictionary import Dictionary

HTML = "text/html; charset=utf-8"
FILES = {  # name: package, path in it, media type
    "swagger-ui.css": ("flask_swagger_ui", "dist/swagger-ui.css", "text/css; charset=utf-8"),
    "swagger-ui.js": ("flask_swagger_ui", "dist/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    "icon.png": ("flask_swagger_ui", "dist/favicon-32x32.png", "image/png"),
    "docs.css": ("functions.api", "assets/docs.css", "text/css; charset=utf-8"),
    "docs.js": ("functions.api", "assets/docs.js", "text/javascript; charset=utf-8"),
}
# Swagger UI's style sheet has its images as data: URLs; no inline script or style, and nothing from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FOR_EVER = "public, max-age=31536000, immutable"
EVERY_TIME = "no-cache"

HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{icon}">
{styles}
</head>
<body>
<header><a class="name" href="/docs">Rowdock</a><nav><a href="/docs">API</a><a href="/docs/problems">Problems</a>\
<a href="/openapi.json">openapi.json</a></nav></header>
"""
PAGE = """<main id="api"><noscript><p>This page needs JavaScript;
<a href="/openapi.json">openapi.json</a> says the same.</p></noscript></main>
<script src="{library}"></script>
<script src="{start}"></script>
</body>
</html>
"""
PROBLEMS = """<main class="text">
<h1>Problems</h1>
<p>What cannot be done is answered as a problem document (RFC 9457). Its <code>type</code> leads here, its
<code>detail</code> says what was wrong with this request, and <code>errors</code> where. A code never changes its
meaning.</p>
{entries}
</main>
</body>
</html>
"""
ENTRY = """<section id="{code}">
<h2><a href="#{code}">{code}</a></h2>
<p class="title">{title}.</p>
<p>{meaning}</p>
<p><b>What to do:</b> {remedy}</p>
</section>"""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that a page needs."""

    body: bytes
    media_type: str


@cache
def _named() -> dict[str, tuple[str, Asset]]:
    """By the name in ``FILES``: the name with the content's digest, and the file; read once in a process."""
    found: dict[str, tuple[str, Asset]] = {}
    for name, (package, path, media_type) in FILES.items():
        body = resources.files(package).joinpath(path).read_bytes()
        stem, _, extension = name.rpartition(".")
        digest = hashlib.blake2b(body, digest_size=8).hexdigest()
        found[name] = (f"{stem}.{digest}.{extension}", Asset(body, media_type))
    return found


@cache
def assets() -> dict[str, Asset]:
    """Every file that is served, by the last part of its path."""
    return dict(_named().values())


def asset(call: Call) -> Response:
    """One of the fixed files; the name is looked up, and never a path.

    Raises:
        Problem: 404.
    """
    found = assets().get(call.parameters["name"])
    if found is None:
        raise Problem(404, "route.not_found", "The pages have no file of this name; /docs names those they have.")
    return Response(200, found.body, found.media_type, {"Cache-Control": FOR_EVER})


def page(_call: Call) -> Response:
    """The API's description, read by Swagger UI from /openapi.json."""
    body = _head("Rowdock API", "swagger-ui.css", "docs.css")
    return _html(body + PAGE.format(library=_url("swagger-ui.js"), start=_url("docs.js")))


def list_problems(_call: Call) -> Response:
    """One entry for each code, which is its anchor."""
    entries = [
        ENTRY.format(code=escape(code), title=escape(title), meaning=escape(guide.meaning), remedy=escape(guide.remedy))
        for code, title, guide in ((code, title, problem_guide.GUIDE[code]) for code, title in TITLES.items())
    ]
    return _html(_head("Rowdock problems", "docs.css") + PROBLEMS.format(entries="\n".join(entries)))


def _head(title: str, *styles: str) -> str:
    links = "\n".join(f'<link rel="stylesheet" href="{_url(name)}">' for name in styles)
    return HEAD.format(title=title, icon=_url("icon.png"), styles=links)


def _url(name: str) -> str:
    return f"/docs/assets/{_named()[name][0]}"


def _html(text: str) -> Response:
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": EVERY_TIME}
    return Response(200, text.encode(), HTML, headers)


def routes(dictionary: Dictionary, described: Sequence[Route]) -> list[Route]:
    """The pages, and the document that one of them shows.

    Args:
        described: all routes, these included once they are there; read when somebody asks for the document.
    """

    @cache
    def body() -> bytes:
        from functions.api.openapi.document import document  # what most processes never give is no part of their start

        return json.dumps(document(dictionary, described), separators=(",", ":")).encode()

    def openapi(call: Call) -> Response:
        """The OpenAPI document, or 304."""
        return representations.revalidated(call.request, body(), representations.JSON)

    return [
        Route("GET", "/openapi.json", "docs.openapi", "open", openapi),
        Route("GET", "/docs", "docs.page", "open", page),
        Route("GET", "/docs/problems", "docs.problems", "open", list_problems),
        Route("GET", "/docs/assets/<name>", "docs.asset", "open", asset),
    ]
