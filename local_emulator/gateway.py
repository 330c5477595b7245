"""One port for everything: HTTP/1.1 in, handlers of our own and a streaming proxy to the functions.

Written on asyncio's streams, because it sits in front of every API call: a message is relayed as it is, its body
unread, over connections that are kept.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

HEAD_BYTES = 64 * 1024
CHUNK_BYTES = 64 * 1024
OWN_BODY_BYTES = 32 * 1024 * 1024  # what Cloud Run takes in one HTTP/1 request
SMALL_BODY_BYTES = 256 * 1024  # read at once and sent in one write with its head
KEPT_BYTES = 20_000  # of an answer, for those who look at deliveries
IDLE_S = 1.0  # gunicorn closes an idle connection after 2 s
QUEUEING_S = 10.0  # Cloud Run's answer to a function at its limit: wait a while, then 429
HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "te", "upgrade", "expect"})

Headers = list[tuple[str, str]]


class BadMessage(Exception):
    """What arrived is not HTTP/1.1 as we read it; ``status`` is the answer."""

    def __init__(self, status: HTTPStatus, what: str) -> None:
        super().__init__(what)
        self.status = status


@dataclass(slots=True)
class Request:
    """The head of a request, and its body for those handlers that ask for it."""

    method: str
    target: str
    version: str
    headers: Headers
    reader: asyncio.StreamReader
    unread_bytes: int | None = 0  # of the body; None while it comes in chunks

    @property
    def path(self) -> str:
        """The target without its query, as sent."""
        return self.target.partition("?")[0]

    def header(self, name: str) -> str:
        """Return the first value of ``name`` (lower case), or an empty text."""
        return _header(self.headers, name)

    def query(self, name: str) -> str:
        """Return the first value of ``name`` in the query, or an empty text."""
        return parse_qs(urlsplit(self.target).query).get(name, [""])[0]

    async def body(self) -> bytes:
        """Read the whole body.

        Raises:
            BadMessage: it is over 32 MiB, or comes in chunks.
        """
        if self.unread_bytes is None or self.unread_bytes > OWN_BODY_BYTES:
            raise BadMessage(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a body of known length, 32 MiB at most, is taken here"
            )
        body = await self.reader.readexactly(self.unread_bytes)
        self.unread_bytes = 0
        return body


@dataclass(frozen=True, slots=True)
class Response:
    """An answer of our own."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"


def json_response(document: object, status: int = 200) -> Response:
    """Return ``document`` as JSON."""
    return Response(status, json.dumps(document).encode())


def problem(status: int, detail: str) -> Response:
    """Return a problem document (RFC 9457)."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return Response(status, json.dumps(document).encode(), "application/problem+json")


class Upstream:
    """One function's server: kept connections to it, and how many requests it takes at a time."""

    def __init__(self, name: str, port: int, *, limit: int, timeout_s: float) -> None:
        self.name = name
        self.port = port
        self.limit = limit
        self.timeout_s = timeout_s
        self.in_flight = 0
        self.answered = 0
        self._slots = asyncio.Semaphore(limit)
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    @asynccontextmanager
    async def slot(self, patience_s: float | None) -> AsyncIterator[None]:
        """Hold one of the places; raises AtLimit if none is free within ``patience_s`` (None: for ever)."""
        try:
            async with asyncio.timeout(patience_s):
                await self._slots.acquire()
        except TimeoutError:
            raise AtLimit(self.name) from None
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self.answered += 1
            self._slots.release()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a kept connection that is still open, or a new one."""
        while self._idle:
            since, reader, writer = self._idle.pop()
            if time.monotonic() - since < IDLE_S and not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self.port, limit=HEAD_BYTES)

    def keep(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take back a connection whose exchange is over."""
        self._idle.append((time.monotonic(), reader, writer))

    def close(self) -> None:
        """Close the kept connections."""
        while self._idle:
            self._idle.pop()[2].close()

    async def post(self, path: str, headers: dict[str, str], body: bytes, timeout_s: float) -> tuple[int, str]:
        """Post ``body`` and return the status and the beginning of the answer, up to ``KEPT_BYTES``.

        Raises:
            TimeoutError: no answer within ``timeout_s``.
            OSError, EOFError: the server is not there, or went away.
        """
        async with asyncio.timeout(timeout_s):
            reader, writer = await self.connect()
            try:
                host = {"host": f"127.0.0.1:{self.port}", "content-length": str(len(body))}
                writer.write(_head(f"POST {path} HTTP/1.1", list((headers | host).items())) + body)
                answer = await _read_answer_head(reader)
                text = await _read_whole(reader, answer)
            except BaseException:
                writer.close()
                raise
            if answer.keeps_open:
                self.keep(reader, writer)
            else:
                writer.close()
            return answer.status, text[:KEPT_BYTES].decode("utf-8", "replace")


Handler = Callable[[Request], Awaitable[Response]]
Router = Callable[[Request], "Handler | tuple[Upstream, str]"]


@dataclass(slots=True)
class Gateway:
    """Hands each request to what the router names: a handler, or a function and the path there."""

    listener: socket.socket
    route: Router
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        """Begin to take connections."""
        self._server = await asyncio.start_server(self._connected, sock=self.listener, limit=HEAD_BYTES)

    async def stop(self) -> None:
        """Take no more connections, and end those that there are."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._one_exchange(reader, writer):
                pass
        except (OSError, EOFError, BadMessage):
            pass  # the client went away, or a function's answer broke off: either way there is nobody to tell
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one_exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether another may follow on this connection."""
        try:
            request = await _read_request(reader)
            if request.header("expect").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            target = self.route(request)
            if isinstance(target, tuple):
                return await _relay(request, writer, *target)
            answer = await target(request)
        except BadMessage as error:
            await _write_own(writer, problem(error.status, str(error)), close=True)
            return False
        open_ = request.unread_bytes == 0 and _keeps_open(request.version, request.headers)
        await _write_own(writer, answer, close=not open_, bodiless=request.method == "HEAD")
        return open_


# --- The proxy


class AtLimit(Exception):
    """A function takes no more requests, and did not within the time that we wait."""


async def _relay(request: Request, client: asyncio.StreamWriter, upstream: Upstream, path: str) -> bool:
    """Pass ``request`` on to ``upstream`` at ``path``, and its answer back; True if another may follow."""
    try:
        async with upstream.slot(QUEUEING_S):
            exchange = await _ask(request, upstream, path)
            async with exchange:
                return await _pass_back(request, exchange.answer, exchange.reader, client) and exchange.is_sent
    except AtLimit:
        refusal = problem(429, f"function {upstream.name} is at its limit of {upstream.limit} requests")
    except TimeoutError:
        refusal = problem(504, f"function {upstream.name} gave no answer within {upstream.timeout_s:g} s")
    except _NoAnswer as error:
        refusal = problem(502, f"function {upstream.name} is not there ({error})")
    await _write_own(client, refusal, close=True)
    return False


class _NoAnswer(Exception):
    """The function's server is not there, or went away before it answered."""


@dataclass(slots=True)
class _Exchange:
    """A request that a function has begun to answer; its connection is kept for another if all of both was passed."""

    upstream: Upstream
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answer: _Answer
    sending: asyncio.Task[None] | None

    @property
    def is_sent(self) -> bool:
        return self.sending is None or self.sending.done()

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and self.is_sent and self.answer.keeps_open:
            self.upstream.keep(self.reader, self.writer)
        else:
            self.writer.close()
        await _cancel(self.sending)


async def _ask(request: Request, upstream: Upstream, path: str) -> _Exchange:
    """Send the request and wait for the head of the answer.

    Raises:
        TimeoutError: none within the function's time.
        _NoAnswer: the server is not there.
    """
    try:
        reader, writer = await upstream.connect()
    except OSError as error:
        raise _NoAnswer(type(error).__name__) from error
    sending: asyncio.Task[None] | None = None
    try:
        sending = await _send(request, writer, path)
        async with asyncio.timeout(upstream.timeout_s):
            return _Exchange(upstream, reader, writer, await _read_answer_head(reader), sending)
    except BaseException as error:
        writer.close()
        await _cancel(sending)
        if isinstance(error, OSError | EOFError | ValueError | BadMessage) and not isinstance(error, TimeoutError):
            raise _NoAnswer(type(error).__name__) from error
        raise


async def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _send(request: Request, writer: asyncio.StreamWriter, path: str) -> asyncio.Task[None] | None:
    """Send the head, and the body: at once if it is small, else by the task that is returned."""
    peer = ("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "http")
    kept = [(name, value) for name, value in request.headers if name.lower() not in HOP_BY_HOP]
    head = _head(f"{request.method} {path} {request.version}", [*kept, *peer, ("connection", "keep-alive")])
    if request.unread_bytes is not None and request.unread_bytes <= SMALL_BODY_BYTES:
        writer.write(head + await request.body())
        return None
    writer.write(head)
    return asyncio.create_task(_copy_body(request, writer))


async def _copy_body(request: Request, writer: asyncio.StreamWriter) -> None:
    if request.unread_bytes is None:
        await _copy_chunks(request.reader, writer)
    else:
        await _copy_bytes(request.reader, writer, request.unread_bytes)
    request.unread_bytes = 0


async def _pass_back(
    request: Request, answer: _Answer, reader: asyncio.StreamReader, client: asyncio.StreamWriter
) -> bool:
    """Write the answer to the client; return whether its connection stays open."""
    bodiless = request.method == "HEAD" or answer.status in (204, 304)
    open_ = _keeps_open(request.version, request.headers) and (bodiless or answer.has_an_end)
    kept = [(name, value) for name, value in answer.headers if name.lower() not in HOP_BY_HOP]
    client.write(_head(answer.first_line, [*kept, ("connection", "keep-alive" if open_ else "close")]))
    if not bodiless:
        if answer.chunked:
            await _copy_chunks(reader, client)
        elif answer.body_bytes is not None:
            await _copy_bytes(reader, client, answer.body_bytes)
        else:
            await _copy_rest(reader, client)
    await client.drain()
    return open_


async def _copy_bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int) -> None:
    while count:
        chunk = await reader.read(min(count, CHUNK_BYTES))
        if not chunk:
            raise EOFError("the message ended early")
        writer.write(chunk)
        await writer.drain()
        count -= len(chunk)


async def _copy_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy a chunked body, frames and all, to the blank line after its last chunk and trailers."""
    while True:
        line = await reader.readuntil(b"\r\n")
        writer.write(line)
        size = _chunk_size(line)
        if size == 0:
            break
        await _copy_bytes(reader, writer, size + 2)
    while line != b"\r\n":
        line = await reader.readuntil(b"\r\n")
        writer.write(line)
    await writer.drain()


async def _copy_rest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()


# --- HTTP/1.1


@dataclass(frozen=True, slots=True)
class _Answer:
    first_line: str
    status: int
    headers: Headers
    chunked: bool
    body_bytes: int | None  # None: not said

    @property
    def has_an_end(self) -> bool:
        return self.chunked or self.body_bytes is not None

    @property
    def keeps_open(self) -> bool:
        return self.has_an_end and _keeps_open(self.first_line.partition(" ")[0], self.headers)


async def _read_request(reader: asyncio.StreamReader) -> Request:
    first_line, headers = await _read_head(reader)
    parts = first_line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadMessage(HTTPStatus.BAD_REQUEST, "the request line is not HTTP/1.1")
    chunked, size = _framing(headers)
    method, target, version = parts
    return Request(method, target, version, headers, reader, None if chunked else size or 0)


async def _read_answer_head(reader: asyncio.StreamReader) -> _Answer:
    while True:
        first_line, headers = await _read_head(reader)
        status = int(first_line.split(" ", 2)[1])
        if status >= 200:  # 1xx is for the connection, not for the client
            chunked, size = _framing(headers)
            return _Answer(first_line, status, headers, chunked, 0 if status in (204, 304) else size)


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, Headers]:
    try:
        head = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1")
    except asyncio.LimitOverrunError:
        raise BadMessage(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are over 64 KiB") from None
    first_line, *lines = head.split("\r\n")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadMessage(HTTPStatus.BAD_REQUEST, "a header is not NAME: VALUE")
        headers.append((name, value.strip()))
    return first_line, headers


def _framing(headers: Headers) -> tuple[bool, int | None]:
    """Return whether the body comes in chunks, and its length where that is said; refuse what says both or neither."""
    lengths = {value for name, value in headers if name.lower() == "content-length"}
    codings = [value.lower() for name, value in headers if name.lower() == "transfer-encoding"]
    if (codings and (lengths or codings != ["chunked"])) or len(lengths) > 1:
        raise BadMessage(HTTPStatus.BAD_REQUEST, "the body's length is said in two ways")
    length = lengths.pop() if lengths else None
    if length is not None and not (length.isascii() and length.isdigit()):
        raise BadMessage(HTTPStatus.BAD_REQUEST, "the body's length is not a number")
    return bool(codings), None if length is None else int(length)


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits or not all(byte in b"0123456789abcdefABCDEF" for byte in digits):
        raise BadMessage(HTTPStatus.BAD_REQUEST, "a chunk's size is not a number")
    return int(digits, 16)


async def _read_whole(reader: asyncio.StreamReader, answer: _Answer) -> bytes:
    if answer.body_bytes is not None:
        return await reader.readexactly(answer.body_bytes)
    if not answer.chunked:
        return await reader.read(-1)
    body = b""
    while size := _chunk_size(await reader.readuntil(b"\r\n")):
        body += (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return body


def _keeps_open(version: str, headers: Headers) -> bool:
    wish = _header(headers, "connection").lower()
    return wish == "keep-alive" if version == "HTTP/1.0" else wish != "close"


def _header(headers: Headers, name: str) -> str:
    return next((value for key, value in headers if key.lower() == name), "")


def _head(first_line: str, headers: Headers) -> bytes:
    return "\r\n".join([first_line, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")


async def _write_own(writer: asyncio.StreamWriter, answer: Response, *, close: bool, bodiless: bool = False) -> None:
    headers = [("content-length", str(len(answer.body))), ("connection", "close" if close else "keep-alive")]
    if answer.body:
        headers.append(("content-type", answer.content_type))
    writer.write(_head(f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", headers))
    writer.write(b"" if bodiless else answer.body)
    await writer.drain()
