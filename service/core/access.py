"""Who asks, and what they may: roles in their order, and the person or program behind a request."""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Role(StrEnum):
    """What somebody may do; each role may all that the ones before it may.

    A reader sees studies and judges findings; an operator also sends, repeats, cancels and shares;
    an administrator also keeps keys, rules and switches, and reads the audit trail.
    """

    READER = "reader"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"

    def covers(self, needed: "Role") -> bool:
        """Return whether this role may what needs another.

        >>> Role.OPERATOR.covers(Role.READER), Role.READER.covers(Role.OPERATOR)
        (True, False)
        """
        return _RANK[self] >= _RANK[needed]


_RANK: Final = MappingProxyType({role: rank for rank, role in enumerate(Role)})


class Means(StrEnum):
    """How somebody showed who they are."""

    NONE = "none"  # on loopback, where nobody is asked
    KEY = "key"
    TOKEN = "token"  # noqa: S105  a word, no secret
    LOGIN = "login"  # a page's session
    LINK = "link"  # a signed link to one study


@dataclass(frozen=True, slots=True)
class Principal:
    """The person or program behind a request.

    ``study_instance_uid`` is the only study that may be seen, None for all of them; ``source`` is
    the id of the key, link key or provider that vouches for them.
    """

    name: str
    role: Role
    means: Means
    source: str = ""
    study_instance_uid: str | None = None


LOCAL: Final = Principal("local", Role.ADMINISTRATOR, Means.NONE)
# Who stands at a door and is still to be known.
NOBODY: Final = Principal("nobody", Role.READER, Means.NONE)
# Who asks in this request, for pages that show it; threads of a request see it too.
asking: Final[ContextVar[Principal]] = ContextVar("asking", default=LOCAL)
