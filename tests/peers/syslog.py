"""A syslog server: RFC 5425 frames, by TLS where it has an identity."""

import socketserver
import ssl
import threading
from typing import Any

from tests.builders.certificates import Identity


class SyslogServer(socketserver.ThreadingTCPServer):
    """Keeps the messages that it takes, without their frames."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, identity: Identity | None = None, port: int = 0) -> None:
        self.messages: list[bytes] = []
        self.context: ssl.SSLContext | None = None
        if identity is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(identity.certificate, identity.key)
        super().__init__(("127.0.0.1", port), SyslogHandler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def end(self) -> None:
        """Stop."""
        self.shutdown()
        self.server_close()
        self.thread.join()


class SyslogHandler(socketserver.BaseRequestHandler):
    """Reads one connection to its end."""

    def handle(self) -> None:
        """Keep every message."""
        server: Any = self.server
        connection = self.request
        try:
            if server.context is not None:
                connection = server.context.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as stream:
                while length := _length(stream):
                    server.messages.append(stream.read(length))
        except OSError:
            pass


def _length(stream: Any) -> int:
    digits = b""
    while (byte := stream.read(1)) not in (b"", b" "):
        digits += byte
    return int(digits or 0)
