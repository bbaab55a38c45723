"""From archived instances to findings: read the image, run the model on it."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count

from service.core.findings import Analysis, Finding
from service.core.headers import SourceFrame
from service.core.identifiers import finding_id, tracking_uid
from service.records.archive import Archive
from service.records.inputs import ArchivedInstance
from workers.models import LoadedModel, volume_rules
from workers.priors.matching import match_lesions
from workers.volume.pixels import SourceInstance
from workers.volume.radiograph import Radiograph, load_radiograph
from workers.volume.series import Volume, load_volume

Stage = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Analysed:
    """An analysis, the image it was made of, and the frames that its masks and maps lie on."""

    analysis: Analysis
    image: Volume | Radiograph
    frames: tuple[SourceFrame, ...]


def analyse(
    model: LoadedModel,
    instances: Sequence[ArchivedInstance],
    *,
    archive: Archive,
    job_id: str,
    operating_point: str | None,
    stage: Stage,
) -> Analysed:
    """Read the instances as the model's kind of image, and let it say what it finds.

    Raises
    ------
    UnsuitableSeries
        When the image cannot be built, or a guard refuses it.
    ContractViolation
        When a file has changed since receipt, or a network breaks its promise.
    """
    with stage("volume"):
        image = read_image(model, instances, archive)
    with stage("analysis"):
        analysis = model.analyse(
            image,
            identify=lambda rank: (finding_id(job_id, rank), tracking_uid(job_id, rank)),
            operating_point=operating_point,
        )
    frames = (image.frame,) if isinstance(image, Radiograph) else image.frames
    return Analysed(analysis, image, frames)


def read_image(
    model: LoadedModel, instances: Sequence[ArchivedInstance], archive: Archive
) -> Volume | Radiograph:
    """Read the instances as the model's kind of image.

    Raises
    ------
    UnsuitableSeries
        When the image cannot be built.
    ContractViolation
        When a file has changed since receipt.
    """
    sources = [
        SourceInstance(item.header, archive.path_of(item.path), item.sha256) for item in instances
    ]
    if not model.reads_volumes:
        return load_radiograph(sources[0], verify=True)
    return load_volume(sources, volume_rules(model.package.manifest), verify=True)


def tracked(found: Sequence[Finding], earlier: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return findings under the names that an earlier run on these images gave the same lesions.

    What is new keeps its own tracking UID, and gets an identifier that nothing had before.
    """
    names = {
        pair.current.id: (pair.earlier.tracking_uid, pair.earlier.tracking_id)
        for pair in match_lesions(found, earlier).pairs
    }
    taken = {finding.tracking_id for finding in earlier}
    renamed = []
    for finding in found:
        uid, name = names.get(finding.id) or (finding.tracking_uid, _unused(finding, taken))
        taken.add(name)
        renamed.append(finding.model_copy(update={"tracking_uid": uid, "tracking_id": name}))
    return tuple(renamed)


def _unused(finding: Finding, taken: Collection[str]) -> str:
    """Return a finding's tracking identifier, or the next of its kind that is free."""
    if finding.tracking_id not in taken:
        return finding.tracking_id
    numbered = (f"{finding.label.meaning} {number}" for number in count(1))
    return next(name for name in numbered if name not in taken)
