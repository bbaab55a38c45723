"""The C-STORE listener of one process: accepts connections and gives each a thread.

A connection counts toward the limit of associations only once it is admitted; until then it is
bounded by number and time, so that port scanners and slow peers lock nobody out. TLS handshakes
happen in the connection's own thread.
"""

import contextlib
import contextvars
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final, Protocol

from service.core.errors import InvalidSettings
from service.core.logs import get_logger
from service.core.settings import Caller, DicomSettings
from service.intake.association import HELLO_S, Association, Host
from service.intake.commitment import COMMITMENT, Commitment
from service.intake.contexts import Offer
from service.intake.doors import Alarm, Doors, no_alarm
from service.intake.ingest import Ingest
from service.intake.pdus import AssociateRequest
from service.intake.tls import listening_context
from service.intake.wire import Wire

MAX_CONNECTIONS: Final = 200  # of one process, associated or not
BACKLOG: Final = 128
STOP_S: Final = 20.0
LINGER_S: Final = 2.0  # for the peer to close the connection once the association is over
_ACCEPT_TICK_S: Final = 0.25

log: Final = get_logger()


class Places(Protocol):
    """Counts associations, over all processes of the listener."""

    def take(self) -> bool:
        """Take a place; False when there is none."""
        ...

    def give_back(self) -> None:
        """Give one place back."""
        ...


class LocalPlaces:
    """The places of a listener that is one process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take a place; False when there is none."""
        with self._lock:
            if self._taken >= self._limit:
                return False
            self._taken += 1
            return True

    def give_back(self) -> None:
        """Give one place back."""
        with self._lock:
            self._taken -= 1


@dataclass(frozen=True)
class Guests:
    """Who may open associations: every caller when none is listed."""

    callers: Sequence[Caller]

    def admits(self, calling_ae_title: str, address: str) -> bool:
        """Return whether this title may call from this address."""
        if not self.callers:
            return True
        return any(
            caller.ae_title.strip() == calling_ae_title and _is_from(caller, address)
            for caller in self.callers
        )


def _is_from(caller: Caller, address: str) -> bool:
    if not caller.addresses:
        return True
    peer = ip_address(address.partition("%")[0])
    mapped = getattr(peer, "ipv4_mapped", None) or peer
    return any(mapped in ip_network(network, strict=False) for network in caller.addresses)


class Listener:
    """Accepts connections on a bound socket until it is told to stop."""

    def __init__(
        self,
        listening: socket.socket,
        settings: DicomSettings,
        places: Places,
        *,
        ingest: Ingest,
        commitment: Commitment,
        alarm: Alarm = no_alarm,
    ) -> None:
        self._listening = listening
        self._doors = Doors(settings)
        self._alarm = alarm
        self._guests = Guests(settings.callers)
        self._places = places
        self._tls = listening_context(settings.tls) if settings.tls.enabled else None
        self._threads: set[threading.Thread] = set()
        self._hellos: dict[threading.Thread, socket.socket] = {}  # not admitted, oldest first
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self._host = Host(
            ae_title=settings.ae_title.strip(),
            ingest=ingest,
            commitment=commitment,
            offer=Offer(accept_deflated=settings.accept_deflated, others=[COMMITMENT]),
            admit=self._admit,
            leave=places.give_back,
            stopping=self.stopping,
            alarm=alarm,
        )

    def serve(self, should_stop: Callable[[], bool]) -> None:
        """Accept connections until asked to stop; then let running requests end, 20 s at most."""
        self._listening.settimeout(_ACCEPT_TICK_S)
        while not should_stop():
            try:
                connection, address = self._listening.accept()
            except TimeoutError:
                continue
            except OSError as error:  # no descriptors left; or another process took it
                log.error("accept_failed", error=type(error).__name__)
                time.sleep(_ACCEPT_TICK_S)
                continue
            self._take(connection, str(address[0]))
        self.stop()

    def stop(self) -> None:
        """End every association after its current request."""
        self.stopping.set()
        end = time.monotonic() + STOP_S
        for thread in list(self._threads):
            thread.join(max(0.0, end - time.monotonic()))

    def _take(self, connection: socket.socket, address: str) -> None:
        if not self._doors.enter(address):
            log.warning("connection_refused", address=address, reason="TOO_MANY_CONNECTIONS")
            connection.close()
            return
        if len(self._threads) >= MAX_CONNECTIONS and not self._make_room():
            self._doors.leave(address)
            connection.close()
            return
        context = contextvars.copy_context()  # what every log line of this process carries
        thread = threading.Thread(
            target=context.run, args=(self._serve, connection, address), daemon=True
        )
        with self._lock:
            self._threads.add(thread)
            self._hellos[thread] = connection
        thread.start()

    def _make_room(self) -> bool:
        """Cut off who has been connected longest without an association: good peers are quick."""
        with self._lock:
            waiting = next(iter(self._hellos), None)
            if waiting is None:
                return False
            connection = self._hellos.pop(waiting)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        return True

    def _serve(self, connection: socket.socket, address: str) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection.settimeout(HELLO_S)
                connection = self._tls.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
                with self._lock:
                    self._hellos[threading.current_thread()] = connection
                connection.do_handshake()
            Association(Wire(connection), self._host, address).run()
        except OSError as error:  # a TLS handshake that failed, or a peer gone before it began
            log.warning("connection_failed", address=address, error=type(error).__name__)
            if isinstance(error, ssl.SSLError):
                reason = error.reason or type(error).__name__
                self._alarm("tls_handshake", actor=address, address=address, detail=reason)
        except Exception:  # the boundary: a fault of ours must not end in silence
            log.exception("association_failed", address=address)
        finally:
            _close(connection)
            self._doors.leave(address)
            with self._lock:
                self._threads.discard(threading.current_thread())
                self._hellos.pop(threading.current_thread(), None)

    def _admit(self, request: AssociateRequest, address: str) -> tuple[int, int, int] | None:
        if not self._guests.admits(request.calling_ae_title, address):
            return 1, 1, 3  # calling AE title not recognized
        if not self._doors.may_associate(address):
            return 2, 3, 1  # temporary congestion
        if not self._places.take():
            return 2, 3, 2  # local limit exceeded
        with self._lock:
            self._hellos.pop(threading.current_thread(), None)
        return None


def bind(settings: DicomSettings) -> socket.socket:
    """Return the listening socket.

    Raises
    ------
    InvalidSettings
        ``ADDRESS_IN_USE`` when the port is taken or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(BACKLOG)
    except OSError as error:
        raise InvalidSettings(
            "ADDRESS_IN_USE",
            f"dicom.port: found {settings.host}:{settings.port}, {error.strerror}; "
            "allowed: an address of this machine and a free port",
        ) from error
    return listening


def _close(connection: socket.socket) -> None:
    # The peer closes first (PS3.8 section 9.2, Sta13): a peer that finds the connection closed
    # before it has looked at a rejection or an abort never learns the reason.
    with contextlib.suppress(OSError):
        end = time.monotonic() + LINGER_S
        while (left := end - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(1 << 16):
                break
    connection.close()
