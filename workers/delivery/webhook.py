"""Tell a webhook of an event, signed, and say what its answer means.

References
----------
Standard Webhooks 1.0: headers ``webhook-id``, ``webhook-timestamp`` and ``webhook-signature``,
the last being HMAC-SHA256 over ``id.timestamp.body``.
"""

import base64
import binascii
import hashlib
import hmac
import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import httpx
import orjson

from service.core.errors import PeerRefused, PeerUnavailable
from service.core.settings import WebhookSettings
from service.records.webhooks import CallClaim
from workers.delivery.guard import callable_addresses

_TIMEOUT: Final = httpx.Timeout(15.0, connect=5.0)
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105  how such secrets are written
_GONE: Final = 410


def call(hook: WebhookSettings, held: CallClaim, *, at: datetime) -> None:
    """Post the event; return when the webhook answered with success.

    Redirects are not followed, proxies of the environment not used, and the address called is the
    one that was found to be allowed.

    Raises
    ------
    PeerUnavailable
        ``CONNECT``, ``NAME``, ``SECRET``, ``HTTP_nnn``: to be tried again.
    PeerRefused
        ``ADDRESS``, ``REDIRECT``, ``HTTP_410``: a repeat will not help.
    """
    parts = urlsplit(hook.url)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    addresses = callable_addresses(host, port, allowed_networks=hook.allowed_networks)
    body = orjson.dumps(held.content)
    headers = {
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "User-Agent": "overread",
        **signature(_secret(hook), held.message_id, at, body),
    }
    targets = [
        parts._replace(netloc=f"{f'[{one}]' if ':' in one else one}:{port}").geturl()
        for one in addresses
    ]
    try:
        status = _posted(hook, targets, host, headers, body)
    except (httpx.HTTPError, OSError) as error:
        raise PeerUnavailable("CONNECT", f"{hook.name}: {type(error).__name__}") from error
    _judge(status, hook.name)


def _posted(
    hook: WebhookSettings,
    targets: Sequence[str],
    host: str,
    headers: Mapping[str, str],
    body: bytes,
) -> int:
    """Post to the first address that takes a connection and return the status."""
    with httpx.Client(
        timeout=_TIMEOUT, follow_redirects=False, trust_env=False, verify=_trust(hook)
    ) as web:
        for target in targets[:-1]:
            try:
                return _post(web, target, host, headers, body)
            except httpx.ConnectError:
                continue
        return _post(web, targets[-1], host, headers, body)


def _post(
    web: httpx.Client, target: str, host: str, headers: Mapping[str, str], body: bytes
) -> int:
    # What the answer says beside its status is not read: it may never end.
    with web.stream(
        "POST", target, content=body, headers=headers, extensions={"sni_hostname": host}
    ) as answer:
        return answer.status_code


def signature(secret: bytes, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers that show who sends a body and when."""
    timestamp = str(int(at.timestamp()))
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    mac = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{mac}",
    }


def secret_bytes(written: str) -> bytes:
    """Return the secret as the signature uses it.

    >>> secret_bytes("whsec_aHVzaA=="), secret_bytes("hush")
    (b'hush', b'hush')
    """
    if not written.startswith(_SECRET_PREFIX):
        return written.encode()
    try:
        return base64.b64decode(written.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        return written.encode()


def _secret(hook: WebhookSettings) -> bytes:
    """Return the webhook's secret; a file is read each time, so that it can be exchanged."""
    if hook.secret is not None:
        return secret_bytes(hook.secret.get_secret_value())
    assert hook.secret_file is not None  # the settings insist on one of them
    try:
        return secret_bytes(hook.secret_file.read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        raise PeerUnavailable("SECRET", f"{hook.name}: its secret cannot be read") from error


def _trust(hook: WebhookSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=hook.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _judge(status: int, name: str) -> None:
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise PeerRefused("REDIRECT", f"{name} answered with a redirect, which is not followed")
    if status == _GONE:
        raise PeerRefused("HTTP_410", f"{name} is gone for good")
    raise PeerUnavailable(f"HTTP_{status}", f"{name} answered HTTP {status}")
