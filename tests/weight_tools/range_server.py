"""A web server that serves parts of files, fails on request, and counts the bytes that it sent."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class RangeServer:
    """The server of some files.

    Attributes:
        files: path -> content.
        sent: path -> bytes of content that were sent.
        asked: the requests, in order: path and Range header.
        ranges: answer with parts where parts are asked for.
        tags: say by an ETag which version of a file it is.
        stop_after: of the next answer, the bytes after which it ends; 0: all are sent.
        hold: end that answer by waiting for ``over``, not by closing the connection.
        then: the ``status`` after that answer.
        status: of all answers, where not 0.
        headers: added to every answer.
        moved: path -> the address that it leads to.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.sent: Counter[str] = Counter()
        self.asked: list[tuple[str, str]] = []
        self.ranges = self.tags = True
        self.stop_after = self.then = self.status = 0
        self.hold = False
        self.headers: dict[str, str] = {}
        self.moved: dict[str, str] = {}
        self.over = threading.Event()
        self.held = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path, wanted = request.path, request.headers.get("Range", "")
        self.asked.append((path, wanted))
        if self.status:
            request.send_error(self.status)
            return
        if path in self.moved:
            request.send_response(302)
            request.send_header("Location", self.moved[path])
            request.end_headers()
            return
        content = self.files.get(path)
        if content is None:
            request.send_error(404)
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if wanted and self.ranges and request.headers.get("If-Range", tag) == tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
        if start >= len(content) > 0:
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.tags:
            request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(content) - start))
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.end_headers()
        part, self.stop_after = content[start:][: self.stop_after or None], 0
        self.status, self.then = self.then, 0
        request.wfile.write(part)
        request.wfile.flush()
        self.sent[path] += len(part)
        if self.hold:
            self.hold = False
            self.held.set()
            self.over.wait(60)

    def stop(self) -> None:
        """Refuse all connections from now on."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving() -> Iterator[RangeServer]:
    server = RangeServer()
    try:
        yield server
    finally:
        server.stop()
