"""A SigOpt API server on 127.0.0.1 which follows the recorded API, and misbehaves when told to.

It shares nothing with the driver in the package, so that the one checks the other.
"""

import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from sigopt_standin_api import Api, Refused

FAULTS = ("reset", "slow", "429", "500", "503", "html", "list", "lost", "revoke", "down")
SLOW = 1.0
"""Seconds that a slow answer takes."""


@dataclass
class Fault:
    """Misbehave at requests of one kind, after so many of them, so many times."""

    kind: str
    method: str
    path: str
    after: int = 0
    times: int = 10**9

    def hits(self, method, path):
        if method != self.method or not re.search(self.path, path) or self.times <= 0:
            return False
        self.after -= 1
        if self.after >= 0:
            return False
        self.times -= 1
        return True


@dataclass
class Request:
    method: str
    path: str
    body: dict
    status: int = 0


class StandIn(Api):
    """The server; a context manager."""

    def __init__(self, port=0):
        super().__init__()
        self.requests, self.faults, self.away = [], [], False
        self.held, self._hold, self._released = threading.Event(), None, threading.Event()
        self.answering = 0
        self._lock = threading.RLock()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *arguments):
                pass

            def answer(self):
                stand_in.handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = answer

        self._handler = Handler
        self._listen(port)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def restart(self, after):
        """Go away now, and come back on the same port after so many seconds."""
        self.away = True  # connections that are open already are cut, too
        self.__exit__()

        def come_back():
            time.sleep(after)
            self._listen(self._server.server_address[1])
            self.away = False
            self.__enter__()

        threading.Thread(target=come_back, daemon=True).start()

    def _listen(self, port):
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler)
        self._server.daemon_threads = True

    def fail(self, kind, method, path, after=0, times=10**9):
        assert kind in FAULTS
        self.faults.append(Fault(kind, method, path, after, times))

    def hold(self, method, pattern, count):
        """Answer nothing more once so many requests of a kind were answered; `held` is set when one waits in vain."""
        self._hold = (method, pattern, count)

    def release(self):
        """Answer again; what waited is cut off as if it had never come."""
        self._hold = None
        self._released.set()

    def sent(self, method, pattern):
        return [r for r in self.requests if r.method == method and re.search(pattern, r.path)]

    def handle(self, http):
        with self._lock:
            self.answering += 1
        try:
            self._handle(http)
        finally:
            with self._lock:
                self.answering -= 1

    def _handle(self, http):
        length = int(http.headers.get("Content-Length") or 0)
        raw = http.rfile.read(length)
        parts = urlsplit(http.path)
        body = json.loads(raw) if raw else dict(parse_qsl(parts.query))
        with self._lock:
            fault = next((f for f in self.faults if f.hits(http.command, parts.path)), None)
            held = self._hold is not None and len(self.sent(*self._hold[:2])) >= self._hold[2]
        if held:
            self.held.set()
            self._released.wait(600)
            return self._cut(http)
        kind = fault.kind if fault else ""
        if self.away or kind in ("reset", "down"):
            return self._cut(http)
        if kind == "slow":
            time.sleep(SLOW)
        if kind == "html":
            return self._send(http, 200, b"<html>please sign in</html>", "text/html")
        if kind == "list":
            return self._send(http, 200, b"[]")
        if kind in ("429", "500", "503"):
            return self._send(http, int(kind), json.dumps({"message": "made to fail", "status": int(kind)}).encode())
        with self._lock:
            if kind == "revoke":
                self.tokens.clear()
            request = Request(http.command, parts.path, body)
            try:
                status, answer = 200, self.route(request, http.headers.get("Authorization"))
            except Refused as error:
                status, answer = error.status, error.body
            request.status = status
            self.requests.append(request)
        if kind == "lost":
            return self._cut(http)
        return self._send(http, status, json.dumps(answer).encode())

    @staticmethod
    def _send(http, status, data, kind="application/json"):
        try:
            http.send_response(status)
            http.send_header("Content-Type", kind)
            http.send_header("Content-Length", str(len(data)))
            http.end_headers()
            http.wfile.write(data)
        except OSError:
            http.close_connection = True

    @staticmethod
    def _cut(http):
        http.close_connection = True
        http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        http.connection.close()
        http.rfile = http.wfile = _Nothing()


class _Nothing:
    """A closed connection's file: what the server library still does with it has no effect."""

    closed = True

    def close(self):
        pass

    def flush(self):
        pass

    def readline(self, *_):
        return b""
