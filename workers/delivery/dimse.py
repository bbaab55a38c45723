"""Send one result by C-STORE (PS3.4 annex B) and say what the answer means."""

import ssl
from collections.abc import Sequence
from pathlib import Path

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType

from service.core.errors import ContractViolation, PeerRefused, PeerUnavailable
from service.core.identifiers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from service.core.settings import Destination, DicomTls

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 30.0
_SUCCESS = 0x0000
_DUPLICATE_SOP_INSTANCE = 0x0111  # the peer has it already (PS3.7 C.5.8)
# Association rejected (PS3.8 9.3.4): by the provider for want of resources, which passes.
_TRANSIENT = 0x02


def send(
    destination: Destination,
    *,
    calling_ae_title: str,
    file: Path,
    sop_class_uid: str,
    transfer_syntax_uid: str,
) -> None:
    """Store the file at the destination; return when it answered success or a warning.

    Raises
    ------
    PeerUnavailable
        ``CONNECT``, ``ASSOCIATION_REJECTED``, ``NO_ANSWER``, ``PEER_BUSY``: to be tried again.
    PeerRefused
        ``NO_CONTEXT``, ``STATUS_xxxx``, ``ASSOCIATION_REFUSED``: a repeat will not help.

    References
    ----------
    DICOM PS3.4 table B.2-1, C-STORE response status values.
    """
    association = associate(
        destination,
        calling_ae_title=calling_ae_title,
        sop_class_uid=sop_class_uid,
        transfer_syntax_uid=transfer_syntax_uid,
    )
    try:
        if not association.accepted_contexts:
            raise PeerRefused("NO_CONTEXT", f"{destination.name} does not take {sop_class_uid}")
        try:
            status = association.send_c_store(file)
        except (ValueError, RuntimeError) as error:
            raise PeerUnavailable("NO_ANSWER", f"{destination.name}: {error}") from error
        _judge(getattr(status, "Status", None), destination.name)
    finally:
        if association.is_established:
            association.release()


def echo(destination: Destination, *, calling_ae_title: str) -> None:
    """Send a C-ECHO; raise as `send` does when the destination does not answer with success."""
    verification = "1.2.840.10008.1.1"
    implicit_little_endian = "1.2.840.10008.1.2"
    association = associate(
        destination,
        calling_ae_title=calling_ae_title,
        sop_class_uid=verification,
        transfer_syntax_uid=implicit_little_endian,
    )
    try:
        status = getattr(association.send_c_echo(), "Status", None)
    except (ValueError, RuntimeError) as error:
        raise PeerUnavailable("NO_ANSWER", f"{destination.name}: {error}") from error
    finally:
        if association.is_established:
            association.release()
    _judge(status, destination.name)


def associate(
    destination: Destination,
    *,
    calling_ae_title: str,
    sop_class_uid: str,
    transfer_syntax_uid: str,
    handlers: Sequence[EventHandlerType] = (),
) -> Association:
    """Open an association for one class; `handlers` serve what the destination requests on it.

    Raises
    ------
    PeerUnavailable, PeerRefused
        With the reason why there is none.
    """
    if destination.host is None or destination.port is None or destination.ae_title is None:
        raise ContractViolation("DESTINATION", f"{destination.name} has no DICOM address")
    entity = AE(calling_ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = _CONNECT_TIMEOUT_S
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _ANSWER_TIMEOUT_S
    entity.add_requested_context(sop_class_uid, transfer_syntax_uid)
    association: Association = entity.associate(
        destination.host,
        destination.port,
        ae_title=destination.ae_title,
        tls_args=tls_of(destination.tls, destination.host),
        evt_handlers=list(handlers),
    )
    if not association.is_established:
        _explain(association, destination)
    return association


def _explain(association: Association, destination: Destination) -> None:
    """Raise with the reason why there is no association."""
    name = destination.name
    if association.is_rejected:
        answer = association.acceptor.primitive
        result = getattr(answer, "result", None)
        text = f"{name} rejected the association: {getattr(answer, 'reason_str', 'no reason')}"
        if result == _TRANSIENT:
            raise PeerUnavailable("ASSOCIATION_REJECTED", text)
        # Rejected for good today, but AE tables get corrected: try on, for a day, like an outage.
        raise PeerUnavailable("ASSOCIATION_REFUSED", text)
    if association.is_aborted and not association.acceptor.primitive:
        raise PeerUnavailable("CONNECT", f"{name} does not answer at its address")
    accepted = association.acceptor.primitive
    if accepted is not None and not association.accepted_contexts:
        raise PeerRefused("NO_CONTEXT", f"{name} accepted no presentation context for the result")
    raise PeerUnavailable("CONNECT", f"{name} ended the association before it began")


def _judge(status: int | None, name: str) -> None:
    """Turn a C-STORE status into success, an error to repeat, or one for a person."""
    if status is None:
        raise PeerUnavailable("NO_ANSWER", f"{name} did not answer in time, or aborted")
    # 0xBxxx are warnings: stored, with something coerced or dropped.
    if status in (_SUCCESS, _DUPLICATE_SOP_INSTANCE) or status >> 12 == 0xB:
        return
    if status >> 8 == 0xA7 or status in (0x0110, 0x0210, 0x0213):
        raise PeerUnavailable("PEER_BUSY", f"{name} answered status 0x{status:04X}")
    raise PeerRefused(f"STATUS_{status:04X}", f"{name} answered status 0x{status:04X}")


def tls_of(tls: DicomTls, host: str) -> tuple[ssl.SSLContext, str] | None:
    """Return our side of TLS (PS3.15 B.12, BCP 195): 1.2 or later with forward secrecy."""
    if not tls.enabled:
        return None
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.certificate is not None and tls.key is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:
        raise PeerUnavailable("TLS_FILES", "certificate, key or CA cannot be read") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM")
    return context, host
