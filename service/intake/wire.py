"""A connection as bytes with deadlines: exact reads and streams out of one large buffer."""

import mmap
import select
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Final

from service.core.errors import PeerUnavailable

BUFFER_BYTES: Final = 1 << 20
SEND_TIMEOUT_S: Final = 15.0


class Wire:
    """Reads a socket through a buffer; every read ends at the deadline, however slow the peer."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        # Memory of its own pages: what a quiet peer never fills is never taken.
        self._view = memoryview(mmap.mmap(-1, BUFFER_BYTES))
        self._start = self._end = 0  # unread bytes
        self._deadline = 0.0

    def within(self, seconds: float) -> None:
        """Give the reads that follow this much time together."""
        self._deadline = time.monotonic() + seconds

    def waiting(self, seconds: float) -> bool:
        """Return whether something can be read, after waiting for it at most this long."""
        if self._start < self._end:
            return True
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def read(self, count: int) -> memoryview:
        """Return the next bytes, no more than the buffer holds; good until the next read.

        Raises
        ------
        PeerUnavailable
            ``DISCONNECTED`` when the peer went away, ``TIMEOUT`` at the deadline.
        """
        if self._end - self._start < count:
            self._make_room(count)
            while self._end - self._start < count:
                self._receive()
        self._start += count
        return self._view[self._start - count : self._start]

    def stream(self, count: int) -> Iterator[memoryview]:
        """Yield the next bytes as they come; each part is good until the next one."""
        while count:
            if self._start == self._end:
                self._start = self._end = 0
                self._receive()
            part = min(count, self._end - self._start)
            self._start += part
            count -= part
            yield self._view[self._start - part : self._start]

    def send(self, data: bytes) -> None:
        """Send everything; raises as `read` does."""
        try:
            self._socket.settimeout(SEND_TIMEOUT_S)
            self._socket.sendall(data)
        except TimeoutError as error:
            raise PeerUnavailable("TIMEOUT", "the peer does not read") from error
        except OSError as error:
            raise PeerUnavailable("DISCONNECTED", "the peer closed the connection") from error

    def _make_room(self, count: int) -> None:
        if self._start + count > len(self._view):
            unread = bytes(self._view[self._start : self._end])
            self._view[: len(unread)] = unread
            self._start, self._end = 0, len(unread)

    def _receive(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise PeerUnavailable("TIMEOUT", "the peer is too slow")
        try:
            self._socket.settimeout(left)
            count = self._socket.recv_into(self._view[self._end :])
        except TimeoutError as error:
            raise PeerUnavailable("TIMEOUT", "the peer is silent") from error
        except OSError as error:
            raise PeerUnavailable("DISCONNECTED", "the connection broke") from error
        if not count:
            raise PeerUnavailable("DISCONNECTED", "the peer closed the connection")
        self._end += count
