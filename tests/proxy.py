"""A line to a server that a test cuts, mutes or garbles at a chosen byte."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

BLOCK_BYTES = 64 * 1024


class CuttingProxy:
    """Passes bytes between clients and the server at ``server_port``, with one fault at a time, each of them once.

    Attributes:
        port: where clients connect.
        cut_at: the answer that carries this many bytes breaks off there.
        garble_at: this byte of an answer arrives wrong.
        mute: a request that has these bytes is passed on; its answer never comes.
        faults: how many of them happened.
        round_trips: how often a client spoke again after the server had answered.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.cut_at: int | None = None
        self.garble_at: int | None = None
        self.mute: bytes | None = None
        self.faults = 0
        self.round_trips = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _close(self._listener, *self._ends)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._ends += [client, server]
                _Line(self, client, server)


class _Line:
    def __init__(self, proxy: CuttingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._muted = False
        self._asking = False
        for carry in (self._carry_requests, self._carry_answers):
            threading.Thread(target=self._until_closed, args=(carry,), daemon=True).start()

    def _until_closed(self, carry: object) -> None:
        with contextlib.suppress(OSError):
            carry()  # type: ignore[operator]
        _close(self._client, self._server)

    def _carry_requests(self) -> None:
        while data := self._client.recv(BLOCK_BYTES):
            if not self._asking:
                self._asking = True
                self._proxy.round_trips += 1
            if self._proxy.mute is not None and self._proxy.mute in data:
                self._muted, self._proxy.mute = True, None
            self._server.sendall(data)

    def _carry_answers(self) -> None:
        passed = 0
        while data := self._server.recv(BLOCK_BYTES):
            self._asking = False
            if self._muted and not data.startswith(b"HTTP/1.1 100 "):
                self._proxy.faults += 1
                return
            if (cut := self._proxy.cut_at) is not None and passed + len(data) > cut:
                self._client.sendall(data[: max(0, cut - passed)])
                self._proxy.cut_at = None
                self._proxy.faults += 1
                return
            if (wrong := self._proxy.garble_at) is not None and passed <= wrong < passed + len(data):
                at = wrong - passed
                data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
                self._proxy.garble_at = None
                self._proxy.faults += 1
            passed += len(data)
            self._client.sendall(data)


def _close(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
