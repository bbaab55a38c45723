"""Whether a destination answers, without sending it anything of a patient's."""

from service.core.errors import PeerUnavailable
from service.core.settings import Destination
from workers.delivery import dimse, mllp, stow


def reach(destination: Destination, *, calling_ae_title: str) -> str:
    """Ask for an answer, and return it in words.

    Raises
    ------
    PeerUnavailable, PeerRefused
        With the reason why there was none.
    """
    if destination.mllp_host is not None:
        mllp.reach(destination)
        return "takes connections"
    if destination.stow_url is None:
        dimse.echo(destination, calling_ae_title=calling_ae_title)
        return "answers C-ECHO"
    status = stow.reach(destination)
    if status >= 400:
        raise PeerUnavailable(f"HTTP_{status}", f"{destination.name} answered HTTP {status}")
    return f"answers HTTP {status}"
