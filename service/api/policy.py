"""Which role a route needs, and what somebody who may see one study only can reach.

What is not named here needs a reader to look and an operator to change, so that a route added
tomorrow is guarded before anybody thinks of it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

from service.core.access import Principal, Role

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
# Where somebody comes in who is nobody yet; each checks what it is given itself.
DOORS: Final = ("/login", "/shared/")
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_UID: Final = r"[0-9.]{1,64}"
# The first that fits decides. Patterns cover the whole path.
_RULES: Final[Sequence[tuple[str, re.Pattern[str], Role]]] = tuple(
    (methods, re.compile(pattern, re.DOTALL), role)
    for methods, pattern, role in (
        # What belongs to reading a study is a reader's to write.
        ("PUT", r"/api/v1/findings/[^/]+/review", Role.READER),
        ("PUT", rf"/api/v1/studies/{_UID}/(labels|reading)", Role.READER),
        ("POST", rf"/api/v1/studies/{_UID}/reports", Role.READER),
        ("POST DELETE", r"/logout", Role.READER),
        # Keys, the trail, links' key, webhooks: the administrator's.
        ("*", r"/api/v1/(keys|audit|link-keys|webhook-calls)(/.*)?", Role.ADMINISTRATOR),
        ("*", r"/(keys|audit|webhooks)(/.*)?", Role.ADMINISTRATOR),
        # What the settings say of the site is the operator's to see; switches that change what
        # happens to every study are the administrator's.
        ("*", r"(/api/v1)?/(destinations|routing|rules|storage)(/.*)?", Role.OPERATOR),
        ("PUT PATCH DELETE", r"/api/v1/.*", Role.ADMINISTRATOR),
        ("POST", r"/api/v1/queues/.*", Role.ADMINISTRATOR),
    )
)
_ONE_STUDY: Final = re.compile(
    rf"/(studies|api/v1/studies|dicom-web/studies)/({_UID})"
    r"(/(findings|results|series(/.*)?|instances(/.*)?|metadata|rendered|thumbnail|bulkdata/.*))?"
)
_SEARCHES: Final = frozenset({"/dicom-web/studies", "/dicom-web/series", "/dicom-web/instances"})
_STUDY_KEYS: Final = frozenset({"studyinstanceuid", "0020000d", "studyinstanceuids"})


def needed_role(method: str, path: str) -> Role:
    """Return the role that a request needs.

    >>> needed_role("GET", "/api/v1/worklist"), needed_role("POST", "/api/v1/jobs/1/retry")
    (<Role.READER: 'reader'>, <Role.OPERATOR: 'operator'>)
    """
    for methods, pattern, role in _RULES:
        if (methods == "*" or method in methods.split()) and pattern.fullmatch(path):
            return role
    return Role.READER if method in SAFE_METHODS else Role.OPERATOR


def is_open(path: str) -> bool:
    """Return whether anybody may ask: probes and the doors."""
    return path in OPEN_PATHS or is_door(path)


def is_door(path: str) -> bool:
    """Return whether a path is where people come in."""
    return any(
        path == door.rstrip("/") or path.startswith(door.rstrip("/") + "/") for door in DOORS
    )


def may(principal: Principal, method: str, path: str, query: bytes) -> bool:
    """Return whether somebody may make a request."""
    if not principal.role.covers(needed_role(method, path)):
        return False
    return principal.study_instance_uid is None or _is_of_study(
        principal.study_instance_uid, method, path, query
    )


def _is_of_study(uid: str, method: str, path: str, query: bytes) -> bool:
    """Return whether a request asks for this study and no other, and changes nothing."""
    if path == "/logout" or path.startswith("/static/"):
        return True
    if method not in SAFE_METHODS:
        return False
    named = _ONE_STUDY.fullmatch(path)
    if named is not None:
        return named[2] == uid
    if path in _SEARCHES:
        return studies_asked(query) == [uid]
    # OHIF's files are the same for everybody; a page for a study names it.
    return path.startswith("/viewer") and set(studies_asked(query)) <= {uid}


def studies_asked(query: bytes) -> list[str]:
    """Return the studies that a query names, by keyword or by tag."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return [value for name, value in pairs if name.casefold() in _STUDY_KEYS]


def roles_of(paths: Mapping[str, Mapping[str, object]]) -> dict[tuple[str, str], Role]:
    """Return the role that each operation of an OpenAPI description needs."""
    return {
        (method.upper(), path): needed_role(method.upper(), re.sub(r"{\w+}", "1", path))
        for path, methods in paths.items()
        for method in methods
    }
