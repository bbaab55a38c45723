"""What a request to DICOMweb says beside its path: what it takes, and how it reached us."""

from typing import Final

from fastapi import Request

PREFIX: Final = "/dicom-web"


def accept_of(request: Request) -> str:
    """Return the Accept header, empty where there is none."""
    return request.headers.get("accept", "")


def service_of(request: Request) -> str:
    """Return the address of DICOMweb as this client reached it."""
    base = request.base_url
    server = request.scope.get("server")
    # dicomweb-client (0.61, 2026) names the host without its port.
    if server is not None and base.port is None and base.hostname == server[0]:
        base = base.replace(port=server[1])
    return f"{str(base).rstrip('/')}{PREFIX}"
