"""TCP connections to peers that speak protocols of their own, with TLS where it is set."""

import socket
import ssl
from pathlib import Path


def connected(
    host: str, port: int, *, context: ssl.SSLContext | None, timeout_s: float
) -> socket.socket:
    """Return an open connection; `OSError` (of which TLS errors are one) when there is none."""
    connection = socket.create_connection((host, port), timeout=timeout_s)
    if context is None:
        return connection
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except OSError:
        connection.close()
        raise


def client_context(
    *, ca: Path | None, certificate: Path | None, key: Path | None
) -> ssl.SSLContext:
    """Return TLS 1.2 or newer that checks the peer, with our certificate where one is set."""
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
