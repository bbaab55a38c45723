"""A web server that webhooks call: it keeps what it is told and answers as set."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hook(ThreadingHTTPServer):
    """Listens on loopback; `received` holds the headers and body of each call."""

    daemon_threads = True

    def __init__(self) -> None:
        self.status = 204
        self.received: list[tuple[dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), HookHandler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    @property
    def url(self) -> str:
        """The address to call."""
        return f"http://localhost:{self.server_address[1]}/events?from=overread"

    def end(self) -> None:
        """Stop."""
        self.shutdown()
        self.server_close()
        self.thread.join()


class HookHandler(BaseHTTPRequestHandler):
    """Answers a call."""

    def do_POST(self) -> None:
        """Keep what was posted."""
        server: Any = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        server.received.append((headers | {":path": self.path}, body))
        self.send_response(server.status)
        if server.status == 302:
            self.send_header("Location", "http://127.0.0.1:1/stolen")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""
