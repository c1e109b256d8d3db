"""A small HTTP server: /metrics for Prometheus, /healthz and /readyz for whoever keeps the daemon running."""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from hotset.daemon.events import say
from hotset.daemon.metrics import Source, registry_of
from hotset.protos.errors import HotsetError

PATIENCE_SECONDS = 10.0
MOST_CONNECTIONS = 16


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of three paths."""

    timeout = PATIENCE_SECONDS
    server_version = "hotset"
    sys_version = ""
    server: Endpoint

    def do_GET(self) -> None:
        """Answer 200, 503 with reasons, or 404."""
        path, source = self.path.partition("?")[0], self.server.source
        if path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, kind, encode(self.server.registry))
        elif path == "/healthz":
            self._report("healthy", source.unhealthy())
        elif path == "/readyz":
            self._report("ready", source.unready())
        else:
            self._answer(404, "text/plain", b"/metrics, /healthz and /readyz are here\n")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def _report(self, name: str, reasons: list[str]) -> None:
        body = json.dumps({name: not reasons, "reasons": reasons}).encode() + b"\n"
        self._answer(503 if reasons else 200, "application/json", body)

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Probes come every few seconds: they are no events."""


class Endpoint(ThreadingHTTPServer):
    """Serves from a thread of its own until `close`."""

    daemon_threads = True

    def __init__(self, source: Source, host: str, port: int) -> None:
        """Port 0 takes any free one. Raises HotsetError if the address cannot be had."""
        self.source = source
        self.registry: CollectorRegistry = registry_of(source)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise HotsetError(f"cannot serve metrics on {host} port {port}: {error.strerror}; choose another") from None
        self._thread = threading.Thread(target=self.serve_forever, name="hotset-http", daemon=True)
        self._thread.start()
        say(logging.INFO, "metrics_serving", host=host, port=self.port)

    @property
    def port(self) -> int:
        """The port, also if any free one was asked for."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Beyond so many connections at once, new ones are closed unanswered."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, *_: Any) -> None:
        """A client that went away while we answered."""

    def server_bind(self) -> None:
        """Without the look-up of our own name that HTTPServer makes."""
        socketserver.TCPServer.server_bind(self)

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()
        self._thread.join()
