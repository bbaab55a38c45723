"""What of a request goes into the audit trail: who looked at or changed what, and was refused."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from starlette.types import Scope

from service.api.policy import SAFE_METHODS, studies_asked
from service.core.access import Principal
from service.core.identifiers import is_uid
from service.records.audit import AuditKind, AuditOutcome
from service.records.audit_trail import AuditTrail

_SUBJECTS: Final = MappingProxyType(
    {
        "finding_id": "finding",
        "job_id": "job",
        "delivery_id": "delivery",
        "key_id": "key",
        "call_id": "call",
        "name": "model",
        "topic": "queue",
    }
)
# Answers that name patients without naming one study.
_LISTS: Final = ("/api/v1/worklist", "/dicom-web/")
_SECURITY: Final = ("/api/v1/keys", "/api/v1/link-keys", "/api/v1/audit", "/keys", "/audit")
_DOORS: Final = ("/login", "/logout", "/shared")


class Witness:
    """Notes answers and refusals in a process's trail."""

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    def answered(self, scope: Scope, principal: Principal, address: str, status: int) -> None:
        """Note what was seen or changed; what is no matter of a study or of access is left out."""
        route = scope.get("route")
        path = str(getattr(route, "path", ""))
        kind = _kind(scope["method"], path, scope.get("path_params", {}))
        if kind is None or path.startswith(_DOORS):
            return
        changes = scope["method"] not in SAFE_METHODS
        if status >= 400 and not changes:
            return
        self._trail.note(
            kind,
            str(getattr(route, "name", "")) or path,
            actor=principal.name,
            means=principal.means,
            role=principal.role,
            address=address,
            outcome=AuditOutcome.FAILURE if status >= 400 else AuditOutcome.SUCCESS,
            study_instance_uid=_study(scope),
            subject_id=_subject(scope),
            detail=f"HTTP {status}" if status >= 400 else "",
        )

    def refused(self, scope: Scope, principal: Principal | None, address: str, why: str) -> None:
        """Note that somebody was not let in."""
        self._trail.note(
            AuditKind.REFUSAL,
            "http",
            actor=address if principal is None else principal.name,
            means="" if principal is None else principal.means,
            role="" if principal is None else principal.role,
            address=address,
            outcome=AuditOutcome.FAILURE,
            detail=f"{why} {scope['method']}",
        )


def _kind(method: str, path: str, parameters: Mapping[str, Any]) -> AuditKind | None:
    """Return what sort of thing a route does, None for what the trail does not hold."""
    if path.startswith(_SECURITY):
        return AuditKind.SECURITY
    if method not in SAFE_METHODS:
        return AuditKind.CHANGE
    if "study" in parameters:
        return AuditKind.RETRIEVE
    if "study_instance_uid" in parameters or path.startswith("/fhir/"):
        return AuditKind.VIEW
    if "finding_id" in parameters or path.startswith("/viewer"):
        return AuditKind.VIEW
    return AuditKind.QUERY if path == "/" or path.startswith(_LISTS) else None


def _study(scope: Scope) -> str:
    """Return the study that a request is about, where its path or its handler says so."""
    parameters = scope.get("path_params", {})
    told = (
        scope.get("audit_study")
        or parameters.get("study_instance_uid")
        or parameters.get("study")
        or ",".join(studies_asked(scope.get("query_string", b"")))
    )
    return told if is_uid(told) else ""


def _subject(scope: Scope) -> str:
    told = scope.get("audit_subject")
    if told is not None:
        return str(told)
    for name, kind in _SUBJECTS.items():
        if name in scope.get("path_params", {}):
            return f"{kind}:{scope['path_params'][name]}"
    return ""
