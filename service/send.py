"""`overread send`: a C-STORE SCU that names every instance that failed."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pynetdicom import AE
from pynetdicom.association import Association
from rich.console import Console
from rich.progress import Progress

from service.core.errors import InvalidRequest, PeerUnavailable
from service.core.identifiers import is_ae_title

_PEER = re.compile(r"(?P<ae>[^@]+)@(?P<host>[^@]+):(?P<port>\d{1,5})")
# The standard allows 128 presentation contexts in one association (PS3.8 9.3.2.2).
_MAX_CONTEXTS = 128
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Peer:
    """The application entity to send to."""

    ae_title: str
    host: str
    port: int


def parse_peer(text: str) -> Peer:
    """Read ``AE@HOST:PORT``.

    Raises
    ------
    InvalidRequest
        ``PEER``.

    Examples
    --------
    >>> parse_peer("OVERREAD@127.0.0.1:11112")
    Peer(ae_title='OVERREAD', host='127.0.0.1', port=11112)
    """
    match = _PEER.fullmatch(text)
    if match is None or not is_ae_title(match["ae"]) or not 0 < int(match["port"]) < 65536:
        raise InvalidRequest("PEER", f"--to: found {text!r}; allowed: AE@HOST:PORT")
    return Peer(match["ae"], match["host"].strip("[]"), int(match["port"]))


def send_paths(paths: Sequence[Path], to: str, *, calling_ae_title: str) -> bool:
    """Send every DICOM file under `paths`; print what failed; return whether all arrived."""
    peer = parse_peer(to)
    files = list(_files(paths))
    if not files:
        raise InvalidRequest("NO_FILES", f"no DICOM files under {', '.join(map(str, paths))}")
    console = Console()
    failures = []
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"sending to {peer.ae_title}", total=len(files))
        for outcome in send_files(files, peer, calling_ae_title=calling_ae_title):
            progress.advance(task)
            if outcome is not None:
                failures.append(outcome)
                console.print(outcome, style="red", markup=False, highlight=False)
    console.print(f"{len(files) - len(failures)} of {len(files)} instances sent", highlight=False)
    return not failures


def send_files(files: Sequence[Path], peer: Peer, *, calling_ae_title: str) -> Iterator[str | None]:
    """Send files over one association; yield None for each that arrived, else what failed.

    Raises
    ------
    PeerUnavailable
        ``ASSOCIATION``: the peer refused or is away.
    """
    association = _associate(files, peer, calling_ae_title)
    try:
        for file in files:
            yield _send(association, file)
    finally:
        if association.is_established:
            association.release()


def _associate(files: Sequence[Path], peer: Peer, calling_ae_title: str) -> Association:
    entity = AE(calling_ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT_S
    contexts = {context for file in files if (context := _context(file)) is not None}
    for sop_class_uid, transfer_syntax_uid in sorted(contexts)[:_MAX_CONTEXTS]:
        entity.add_requested_context(sop_class_uid, transfer_syntax_uid)
    if not contexts:
        raise InvalidRequest("NO_DICOM", "none of the files is a DICOM file")
    association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title)
    if not association.is_established:
        raise PeerUnavailable(
            "ASSOCIATION", f"{peer.ae_title}@{peer.host}:{peer.port} refused or is away"
        )
    return association


def _send(association: Association, file: Path) -> str | None:
    try:
        dataset = dcmread(file)
    except (InvalidDicomError, OSError) as error:
        return f"{file}: not a DICOM file ({type(error).__name__})"
    if not association.is_established:
        return f"{file}: the association ended early"
    try:
        status = association.send_c_store(dataset)
    except (ValueError, RuntimeError, AttributeError) as error:
        return f"{file}: {error}"
    code = getattr(status, "Status", None)
    if code is None:
        return f"{file}: no answer"
    return None if code == 0 or code >> 12 == 0xB else f"{file}: status 0x{code:04X}"


def _context(file: Path) -> tuple[str, str] | None:
    try:
        meta = dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    except (InvalidDicomError, OSError):  # a folder is an OSError here
        return None
    return _sop_class(meta), str(meta.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2"))


def _sop_class(dataset: FileDataset) -> str:
    return str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", ""))


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            # Folders hold other things too; a file that was named itself must be DICOM.
            yield from sorted(item for item in path.rglob("*") if _context(item) is not None)
        elif path.is_file():
            yield path
        else:
            raise InvalidRequest("NO_FILES", f"{path} does not exist")
