"""What the listener accepts: storage of every kind, in every transfer syntax, and verification."""

from collections.abc import Iterable, Sequence
from typing import Final

from pydicom.uid import (
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.presentation import AllStoragePresentationContexts, StoragePresentationContexts

from service.intake.pdus import AnsweredContext, ContextResult, ProposedContext

VERIFICATION: Final = "1.2.840.10008.1.1"
# The second list adds retired classes, which old modalities and archives still send.
STORAGE: Final = frozenset(
    str(context.abstract_syntax)
    for context in (*AllStoragePresentationContexts, *StoragePresentationContexts)
)
_LAST_CHOICES: Final = {str(ImplicitVRLittleEndian): 1, str(ExplicitVRBigEndian): 2}


def transfer_syntaxes(*, accept_deflated: bool) -> frozenset[str]:
    """Return the transfer syntaxes of stored instances.

    Deflated data sets grow a thousandfold when read, so they are left out unless asked for.
    """
    names = {str(uid) for uid in AllTransferSyntaxes}
    return frozenset(names if accept_deflated else names - {str(DeflatedExplicitVRLittleEndian)})


class Offer:
    """Answers presentation contexts from a table that is made once."""

    def __init__(self, *, accept_deflated: bool, others: Iterable[str] = ()) -> None:
        stored = transfer_syntaxes(accept_deflated=accept_deflated)
        plain = frozenset(
            map(str, (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian))
        )
        self.table = {
            **dict.fromkeys(STORAGE, stored),
            **dict.fromkeys((VERIFICATION, *others), plain),
        }

    def answer(self, proposed: Sequence[ProposedContext]) -> list[AnsweredContext]:
        """Answer each context; of several transfer syntaxes the peer's first choice wins.

        Implicit VR and big endian come last where the peer proposes others beside them: explicit
        VR keeps the types of private elements, and big endian is retired.
        """
        return [self._answer(context) for context in proposed]

    def _answer(self, context: ProposedContext) -> AnsweredContext:
        accepted = self.table.get(context.abstract_syntax)
        if accepted is None:
            result, choices = ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED, []
        else:
            choices = [uid for uid in context.transfer_syntaxes if uid in accepted]
            choices.sort(key=lambda uid: _LAST_CHOICES.get(uid, 0))
            result = ContextResult.ACCEPTED
            if not choices:
                result = ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED
        syntax = choices[0] if choices else context.transfer_syntaxes[0]
        return AnsweredContext(context.id, context.abstract_syntax, result, syntax)
