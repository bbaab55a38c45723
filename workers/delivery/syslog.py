"""Messages to a syslog server: RFC 5424 over TLS (RFC 5425), TCP or UDP (RFC 5426)."""

import socket
import ssl
from datetime import UTC, datetime
from typing import Final

from service.core.errors import PeerUnavailable
from service.core.settings import SyslogSettings
from workers.delivery.sockets import client_context, connected

# Facility 10 is security; severity 5 notice, 4 warning.
_FACILITY: Final = 10
_NOTICE: Final = 5
_WARNING: Final = 4
_TIMEOUT_S: Final = 10.0
MESSAGE_ID: Final = "DICOM+RFC3881"  # PS3.15 A.6


def line(
    body: bytes, *, at: datetime, host: str, process: str, failed: bool, application: str
) -> bytes:
    """Return one syslog message."""
    priority = _FACILITY * 8 + (_WARNING if failed else _NOTICE)
    stamp = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    names = (_name(host, 255), _name(application, 48), _name(process, 128))
    head = f"<{priority}>1 {stamp} {' '.join(names)} {MESSAGE_ID} - "
    return head.encode() + body


class Syslog:
    """A connection that is opened when first needed and kept."""

    def __init__(self, settings: SyslogSettings) -> None:
        self._settings = settings
        self._socket: socket.socket | None = None

    def send(self, message: bytes) -> None:
        """Send one message.

        Raises
        ------
        PeerUnavailable
            ``SYSLOG``: the server is away; what was sent shortly before may be lost too.
        """
        try:
            connection = self._open()
            if self._settings.transport == "udp":
                connection.send(message)
            else:
                connection.sendall(str(len(message)).encode() + b" " + message)
        except (OSError, ssl.SSLError) as error:
            self.close()
            raise PeerUnavailable("SYSLOG", f"syslog: {type(error).__name__}") from error

    def check(self) -> None:
        """Raise as `send` does when the server has closed the connection: it never speaks."""
        if self._socket is None or self._settings.transport == "udp":
            return
        if _is_over(self._socket):
            self.close()
            raise PeerUnavailable("SYSLOG", "syslog: the server closed the connection")

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        settings, host = self._settings, str(self._settings.host)
        if settings.transport == "udp":
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, settings.port, type=socket.SOCK_DGRAM
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.connect(address)
            return self._socket
        context = None
        if settings.transport == "tls":
            context = client_context(
                ca=settings.ca, certificate=settings.certificate, key=settings.key
            )
        self._socket = connected(host, settings.port, context=context, timeout_s=_TIMEOUT_S)
        self._socket.settimeout(_TIMEOUT_S)
        return self._socket


def _is_over(connection: socket.socket) -> bool:
    """Return whether the other end has hung up; a TLS server's tickets are read over."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(_TIMEOUT_S)


def _name(text: str, limit: int) -> str:
    """Return a header field: printable ASCII without spaces, ``-`` when empty."""
    shown = "".join(c if "!" <= c <= "~" else "_" for c in text)[:limit]
    return shown or "-"
