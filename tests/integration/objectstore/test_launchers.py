"""Stores as the emulator starts them: on loopback, with secrets of their own, announcing what is written."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from local_emulator import stores
from local_emulator.stores import StoreServer, Webhook
from shared import objectstore

from .conftest import KINDS, NEEDS_MINIO

READY_S = 20


@pytest.fixture
def announcements() -> Iterator[tuple[str, queue.Queue[tuple[str, dict[str, object]]]]]:
    """An address that takes webhooks, and what came: (Authorization, body)."""
    came: queue.Queue[tuple[str, dict[str, object]]] = queue.Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.end_headers()
            if body:
                came.put((self.headers.get("Authorization", ""), json.loads(body)))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", came
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", [pytest.param("minio", marks=NEEDS_MINIO), "seaweedfs"])
def test_a_webhook_tells_of_the_announced_buckets_and_of_no_other(
    kind: str, tmp_path: Path, announcements: tuple[str, queue.Queue[tuple[str, dict[str, object]]]]
) -> None:
    """With the token, and for an object in the announced bucket although one in another bucket came first."""
    url, came = announcements
    server = stores.LAUNCHERS[kind](tmp_path, ["quiet", "announced"], webhook=Webhook(url, "t0ken", ("announced",)))
    try:
        store = objectstore.connect(server.url)
        store.put("quiet", "a.csv", b"1")
        store.put("announced", "in/b c.csv", b"2")
        told = ""
        while "announced/in/b c.csv" not in told:  # SeaweedFS may tell of the new folder first
            authorization, body = came.get(timeout=READY_S)
            told = json.dumps(body)
            assert authorization == "Bearer t0ken"
            assert "quiet" not in told
    finally:
        server.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_listens_on_loopback_alone_and_keeps_its_secret(kind: str, tmp_path: Path) -> None:
    """The secret is the same after a new start, and in a file that its owner alone can read."""
    server = stores.LAUNCHERS[kind](tmp_path, ["files"])
    again: StoreServer | None = None
    try:
        process = psutil.Process(server.child.pid)
        listening = [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        server.stop()
        again = stores.LAUNCHERS[kind](tmp_path, ["files"], port=server.port)
        assert (again.url, again.child.pid) != (server.url, server.child.pid)
        assert again.url == server.url
    finally:
        server.stop()
        if again is not None:
            again.stop()
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1"}
    assert server.secret not in repr(server) or not server.secret
    kept = tmp_path / "credentials.json"
    assert kind == "fake-gcs" or kept.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)
