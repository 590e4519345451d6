"""A web server on this machine that publishes files, and fails as it is told to."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40  # of every repository, as the hub's client asks for it
DRIP = 1 << 16  # bytes that a slow server sends at once


@dataclass
class Publisher:
    """What is published by path, how the next answers fail, and what was asked for.

    An entry of `faults` is for one GET of a file: a status like "503", "cut 1000" (the connection breaks
    after so many bytes), "long 7" (it promises so many bytes too many), "corrupt", "silent 1000" (nothing
    more comes after so many bytes), "slow 0.1" (so many seconds between pieces), "to URL" (a redirect),
    "page" (it is said to be a web page), "".
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    ranges: bool = True
    etags: bool = True
    asked: list[str] = field(default_factory=list)  # e.g. "GET /name bytes=100-"
    url: str = ""
    marks: dict[str, str] = field(default_factory=dict)  # digests of files by path, as their ETags
    over: threading.Event = field(default_factory=threading.Event)

    def publish(self, name: str, content: bytes) -> str:
        """The address of `content`, under `name`."""
        self.files[f"/{name}"] = content
        self.marks[f"/{name}"] = f'"{sha256(content).hexdigest()}"'
        return f"{self.url}/{name}"

    @property
    def gets(self) -> list[str]:
        return [asked.removeprefix("GET ") for asked in self.asked if asked.startswith("GET ")]


class _Handler(BaseHTTPRequestHandler):
    publisher: Publisher

    def log_message(self, *message: object) -> None:
        """Nothing is logged."""

    def do_HEAD(self) -> None:
        self._answer("")

    def do_GET(self) -> None:
        faults = self.publisher.faults
        self._answer(faults.pop(0) if faults and self.path in self.publisher.files else "")

    def _answer(self, fault: str) -> None:
        publisher = self.publisher
        wanted = self.headers.get("Range", "")
        publisher.asked.append(f"{self.command} {self.path} {wanted}".strip())
        if self.path not in publisher.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")  # the hub's word for it
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if fault.isdecimal():
            return self.send_error(int(fault))
        if fault.startswith("to "):
            self.send_response(302)
            self.send_header("Location", fault.removeprefix("to "))
            return self.end_headers()
        content = publisher.files[self.path]
        etag = publisher.marks[self.path]
        start = self._start(wanted, etag)
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = content[start:]
        kind, _, number = fault.partition(" ")
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", "text/html; charset=utf-8" if kind == "page" else "application/octet-stream")
        if publisher.etags:
            self.send_header("ETag", etag)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body) + (int(number) if kind == "long" else 0)))
        self.end_headers()
        if self.command == "GET":
            self._send(body, kind, number)

    def _start(self, wanted: str, etag: str) -> int:
        """The first byte to send: the whole file if nothing else was asked for, or it is another one now."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
        same = self.headers.get("If-Range", etag) == etag
        return int(match[1]) if match and same and self.publisher.ranges else 0

    def _send(self, body: bytes, kind: str, number: str) -> None:
        if kind == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        elif kind in ("cut", "silent"):
            self.wfile.write(body[: int(number)])
            if kind == "silent":
                self.publisher.over.wait(10)
            return
        pause = float(number) if kind == "slow" else 0.0
        try:
            for at in range(0, len(body), DRIP if pause else len(body)):
                self.wfile.write(body[at : at + DRIP] if pause else body)
                if pause and self.publisher.over.wait(pause):
                    return
        except (BrokenPipeError, ConnectionResetError):
            return  # whoever asked is gone, perhaps killed


@contextmanager
def publishing() -> Iterator[Publisher]:
    """Serve, on a port of this machine."""
    publisher = Publisher()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"publisher": publisher}))
    server.daemon_threads = True
    publisher.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield publisher
    finally:
        publisher.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
