"""DICOM TLS, as listener and as caller: version 1.2 or later with forward secrecy.

References
----------
DICOM PS3.15 annex B.12 (BCP 195 TLS profile), RFC 9325 section 4.2.
"""

import ssl
from typing import Final

from service.core.errors import InvalidSettings
from service.core.settings import DicomTls

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"  # of version 1.2; 1.3 has its own


def listening_context(tls: DicomTls) -> ssl.SSLContext:
    """Return the listener's side; client certificates are asked for where a CA is named.

    Raises
    ------
    InvalidSettings
        ``SETTINGS`` when certificate, key or CA are missing or cannot be read.
    """
    if tls.certificate is None or tls.key is None:
        raise InvalidSettings("SETTINGS", "dicom.tls: found none; allowed: certificate and key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise InvalidSettings(
            "SETTINGS", "dicom.tls: found unreadable files; allowed: PEM certificate, key and CA"
        ) from error
    return _hardened(context)


def calling_context(tls: DicomTls) -> ssl.SSLContext:
    """Return the caller's side, with our own certificate where one is named."""
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.certificate is not None and tls.key is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return _hardened(context)


def _hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    return context
