"""From archived instances to findings: read the image, run the model on it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from service.core.findings import Analysis
from service.core.headers import SourceFrame
from service.core.identifiers import finding_id, tracking_uid
from service.records.archive import Archive
from service.records.inputs import ArchivedInstance
from workers.models import LoadedModel, volume_rules
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
    sources = [
        SourceInstance(item.header, archive.path_of(item.path), item.sha256) for item in instances
    ]
    with stage("volume"):
        image = _read(model, sources)
    with stage("analysis"):
        analysis = model.analyse(
            image,
            identify=lambda rank: (finding_id(job_id, rank), tracking_uid(job_id, rank)),
            operating_point=operating_point,
        )
    frames = (image.frame,) if isinstance(image, Radiograph) else image.frames
    return Analysed(analysis, image, frames)


def _read(model: LoadedModel, sources: Sequence[SourceInstance]) -> Volume | Radiograph:
    if not model.reads_volumes:
        return load_radiograph(sources[0], verify=True)
    return load_volume(sources, volume_rules(model.package.manifest), verify=True)
