"""A job's results on their way into the archive: written, validated, stored, ready for a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from service.core.elements import Encoding, walk
from service.core.errors import OverreadError
from service.core.part10 import header_only, read_file_meta
from service.core.received import read_instance
from service.records.archive import Archive
from service.records.inputs import ArchivedInstance
from service.records.jobs import Claim
from service.records.results import StoredResult
from service.records.studies import ReceivedInstance
from workers.analysis import Analysed
from workers.models import LoadedModel
from workers.results.context import Equipment, ModelIdentity, ResultContext, WrittenResult
from workers.results.rendering import Display
from workers.results.writer import write_refusal, write_results
from workers.volume.radiograph import Radiograph
from workers.volume.series import Volume

_RADIOGRAPH_PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True)
class StoredObject:
    """A result whose file is in the archive: its row, and its row as an instance of the study."""

    result: StoredResult
    received: ReceivedInstance


def write_analysed(
    archive: Archive,
    held: Claim,
    model: LoadedModel,
    analysed: Analysed,
    header: bytes,
    *,
    station: str,
    with_picture: bool,
) -> list[StoredObject]:
    """Write an analysis as DICOM objects and store them.

    `station` names the installation; `with_picture` adds a Secondary Capture of the findings.

    Raises
    ------
    InvalidResult
        When an object does not pass its own checks; nothing may leave then.
    """
    written = write_results(
        _context(held, model, header, station),
        analysed.analysis,
        analysed.frames,
        display=_display(analysed.image) if with_picture else None,
    )
    return [_store(archive, item) for item in written]


def write_refused(
    archive: Archive,
    held: Claim,
    model: LoadedModel,
    instances: Sequence[ArchivedInstance],
    header: bytes,
    refusal: OverreadError,
    *,
    station: str,
) -> list[StoredObject]:
    """Write the report that says that, and why, the series was not analysed, and store it."""
    report = write_refusal(
        _context(held, model, header, station),
        [instance.header for instance in instances],
        reason=refusal.reason,
        message=refusal.message,
    )
    return [_store(archive, report)]


def _display(image: Volume | Radiograph) -> Display | None:
    """Return the pixels to draw on, on the source frames; a resampled volume has none."""
    if isinstance(image, Radiograph):
        low, high = np.percentile(image.pixels, _RADIOGRAPH_PERCENTILES)
        return Display(image.map_on_source(image.pixels)[None], window=(float(low), float(high)))
    return None if image.is_resampled else Display(image.voxels)


def _context(held: Claim, model: LoadedModel, header: bytes, station: str) -> ResultContext:
    return ResultContext(
        job_id=held.job_id,
        source_header=header,
        created_at=held.created_at,
        model=ModelIdentity(
            name=held.model_name,
            version=held.model_version,
            sha256=held.model_sha256,
            title=model.package.manifest.package.title,
            parameters={key: str(value) for key, value in sorted(held.parameters.items())},
        ),
        equipment=Equipment(
            product_version=version("overread"),
            device_serial_number=station,
        ),
        research_only=not held.parameters.get("clinical_use", False),
    )


def _store(archive: Archive, written: WrittenResult) -> StoredObject:
    """Bring a result to the disk and read its own header back for the row."""
    meta = read_file_meta(written.content)
    assert meta is not None  # ours, written a moment ago
    encoding = Encoding.of(meta.transfer_syntax_uid)
    elements = walk(written.content, encoding, start=meta.length)
    head = written.content[: meta.length]
    file = archive.store(
        head,
        written.content[meta.length :],
        study_instance_uid=written.study_instance_uid,
        sop_instance_uid=written.sop_instance_uid,
    )
    header, study = read_instance(
        written.content, encoding, elements, transfer_syntax_uid=meta.transfer_syntax_uid
    )
    return StoredObject(
        StoredResult(
            role=written.role.value,
            sop_class_uid=written.sop_class_uid,
            sop_instance_uid=written.sop_instance_uid,
            series_instance_uid=written.series_instance_uid,
            transfer_syntax_uid=written.transfer_syntax_uid,
            path=file.path,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
        ),
        ReceivedInstance(
            header=header,
            study=study,
            file=file,
            header_bytes=header_only(written.content, elements, meta=head),
            is_result=True,
        ),
    )
