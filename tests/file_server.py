"""A web server of a folder in a thread, which fails on request and counts the requests."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer:
    """The server of one folder.

    Attributes:
        faults: a file's name -> the faults of its next requests, in order: a status, "truncated", "wrong" (other
            bytes), "longer", or "hang up".
        asked: the number of requests of each path.
    """

    def __init__(self, folder: Path) -> None:
        self.faults: dict[str, list[int | str]] = {}
        self.asked: Counter[str] = Counter()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked[self.path] += 1
                faults = server.faults.get(Path(self.path).name, [])
                fault = faults.pop(0) if faults else None
                file = folder / self.path.lstrip("/")
                if isinstance(fault, int) or not file.is_file():
                    self.send_error(fault if isinstance(fault, int) else 404)
                    return
                if fault == "hang up":
                    self.connection.close()
                    return
                content = file.read_bytes()
                self.send_response(200)
                if fault == "wrong":
                    content = bytes(byte ^ 1 for byte in content)
                if fault == "longer":
                    content += b"more"
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if fault == "truncated" else content)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def shards_asked(self) -> Counter[str]:
        """How often each shard was asked for, by its name."""
        return Counter({Path(path).name: count for path, count in self.asked.items() if path.endswith(".tar")})

    def stop(self) -> None:
        """Refuse all connections from now on."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    server = FileServer(folder)
    try:
        yield server
    finally:
        server.stop()
