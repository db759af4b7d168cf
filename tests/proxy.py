"""A proxy that misbehaves when told to: faults on the wire, in front of a real server."""

import socket
import ssl
import struct
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

CUT_AFTER = 3000
"""Bytes of a connection that a truncated upload lets through."""

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code>"
    b"<Message>Please reduce your request rate.</Message></Error>"
)


class Proxy:
    """Forwards connections to `target`. Use it as a context manager, and `fault` within.

    With a certificate and its key it speaks TLS to its clients.

    Faults: `busy` answers 503, `reset` cuts connections, `silent` takes requests and answers nothing,
    `truncate` cuts each connection after a few bytes of what the client sends.
    """

    def __init__(self, target: tuple[str, int], certificate: tuple[Path, Path] | None = None) -> None:
        self.target = target
        self.tls = None
        if certificate is not None:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(*certificate)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.listener.getsockname()[1]}"
        self.kind = ""
        self.met = 0
        self.open: set[socket.socket] = set()
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()
        self._cut()

    @contextmanager
    def fault(self, kind: str):
        """Misbehave in one way until the block ends."""
        self._become(kind)
        try:
            yield
        finally:
            self._become("")

    def wait_met(self, times: int, timeout: float) -> None:
        """Wait until the fault was met so many times."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.met >= times, timeout), f"met {self.met} times"

    def _become(self, kind: str) -> None:
        with self.changed:
            self.kind, self.met = kind, 0
            self.changed.notify_all()
        self._cut()

    def _cut(self) -> None:
        with self.lock:
            ended, self.open = self.open, set()
        for one in ended:
            # A thread that reads from it wakes up.
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            _reset(one)

    def _count(self) -> None:
        with self.changed:
            self.met += 1
            self.changed.notify_all()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        kind = self.kind
        with self.lock:
            self.open.add(client)
        with suppress(OSError):
            if self.tls is not None:
                client = self.tls.wrap_socket(client, server_side=True)
            if kind == "reset":
                self._count()
                _reset(client)
            elif kind == "busy":
                self._refuse(client)
            elif kind == "silent":
                if client.recv(1 << 16):
                    self._count()
                    # Until the fault is over: that cuts the connection.
                    while client.recv(1 << 16):
                        pass
            else:
                self._forward(client, CUT_AFTER if kind == "truncate" else None)

    def _refuse(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            some = client.recv(1 << 16)
            if not some:
                return
            head += some
        self._count()
        client.sendall(
            b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(SLOW_DOWN), SLOW_DOWN)
        )
        client.shutdown(socket.SHUT_WR)
        while client.recv(1 << 16):
            pass
        client.close()

    def _forward(self, client: socket.socket, limit: int | None) -> None:
        server = socket.create_connection(self.target)
        with self.lock:
            self.open.add(server)
        threading.Thread(target=self._copy, args=(server, client, None), daemon=True).start()
        self._copy(client, server, limit)

    def _copy(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        sent = 0
        with suppress(OSError):
            while some := source.recv(1 << 16):
                if limit is not None and sent + len(some) > limit:
                    sink.sendall(some[: limit - sent])
                    self._count()
                    _reset(source)
                    break
                sink.sendall(some)
                sent += len(some)
        for one in (source, sink):
            with self.lock:
                self.open.discard(one)
            with suppress(OSError):
                one.close()


def _reset(one: socket.socket) -> None:
    # Without lingering, closing sends a reset.
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        one.close()
