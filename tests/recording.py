"""A loopback HTTP server that answers what it is told, and remembers what it was asked."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Call:
    """One request as it arrived; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class RecordingServer:
    """Answers 204 unless told otherwise."""

    port: int = 0
    calls: list[Call] = field(default_factory=list)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def answer(self, path, status, body=b""):
        self.answers[path] = (status, body)


@pytest.fixture
def http_server():
    record = RecordingServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            named = {name.lower(): value for name, value in self.headers.items()}
            record.calls.append(Call(self.path, named, body))
            status, answer = record.answers.get(self.path.partition("?")[0], (204, b""))
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET  # noqa: N815 - BaseHTTPRequestHandler's own names

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        record.port = server.server_port
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield record
        server.shutdown()
