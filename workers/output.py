"""A job's results on their way into the archive: written, validated, stored, ready for a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import numpy as np

from service.core.elements import Encoding, walk
from service.core.errors import InvalidResult, OverreadError
from service.core.findings import Analysis
from service.core.headers import InstanceHeader, SourceFrame
from service.core.manifest_input import Package
from service.core.part10 import header_only, read_file_meta
from service.core.profiles import Profile
from service.core.received import read_instance
from service.core.states import ResultState
from service.records.archive import Archive
from service.records.jobs import Claim
from service.records.results import StoredResult
from service.records.studies import ReceivedInstance
from service.records.succession import Predecessor
from workers.results.context import (
    Equipment,
    InstanceReference,
    ModelIdentity,
    ResultContext,
    WrittenResult,
)
from workers.results.key_objects import Rejection, write_rejection_note
from workers.results.rendering import Display
from workers.results.source import read_source
from workers.results.writer import Judged, ResultWriter, checked, write_refusal
from workers.volume.radiograph import Radiograph
from workers.volume.series import Volume

_RADIOGRAPH_PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True)
class StoredObject:
    """A result whose file is kept: its row, and, if it may be seen, its row as an instance."""

    result: StoredResult
    received: ReceivedInstance | None = None


@dataclass(frozen=True)
class Note:
    """A rejection note for one destination."""

    destination: str
    stored: StoredObject


@dataclass(frozen=True)
class Content:
    """What the objects of a document are made of; without an analysis it says why there is none."""

    analysis: Analysis | None = None
    frames: Sequence[SourceFrame] = ()
    display: Display | None = None
    headers: Sequence[InstanceHeader] = ()
    refusal: OverreadError | None = None


@dataclass(frozen=True)
class Forms:
    """In which forms a document is wanted, beside the usual one, and what it takes the place of."""

    profiles: Sequence[Profile] = ()
    giving_way: Sequence[Predecessor] = ()
    known: Mapping[str, int] = field(default_factory=dict)  # SOP Instance UIDs that are valid


class Output:
    """Writes the objects of one document into the archive, and looks after those that fail."""

    def __init__(self, archive: Archive, context: ResultContext, study_instance_uid: str) -> None:
        self._archive = archive
        self._context = context
        self._study_uid = study_instance_uid

    def write(self, content: Content, forms: Forms) -> list[StoredObject]:
        """Return every object in the forms that are wanted; what fails its checks is set apart.

        Raises
        ------
        ContractViolation
            When the analysis contradicts itself or its source.
        """
        judged: dict[str, Judged] = {}
        usual = Profile()
        writer = self._writer(content)
        for profile in (usual, *forms.profiles):
            context = self._following(profile, forms.giving_way)
            for one in self._judged(writer, content, context, profile):
                judged.setdefault(one.result.sop_instance_uid, one)
        new = [one for uid, one in judged.items() if uid not in forms.known]
        return [self._store(one) for one in new]

    def note(self, withdrawn: Sequence[Predecessor], profile: Profile) -> StoredObject:
        """Return the note that withdraws these objects from a destination.

        Raises
        ------
        InvalidResult
            When it does not pass its checks.
        """
        context = self._context.in_form(profile)
        source = read_source(context.source_header)
        note = write_rejection_note(
            context,
            source,
            [self._reference(one) for one in withdrawn],
            why=Rejection.QUALITY,
            words="Superseded by a newer result of the same algorithm, or withdrawn by a reader.",
        )
        form = profile.form_of(note.role)
        stored = self._store(Judged(checked(note, context, source), form))
        return replace(stored, received=None)

    def _writer(self, content: Content) -> ResultWriter | None:
        if content.analysis is None:
            return None
        return ResultWriter(
            self._context, content.analysis, content.frames, display=content.display
        )

    def _judged(
        self,
        writer: ResultWriter | None,
        content: Content,
        context: ResultContext,
        profile: Profile,
    ) -> Sequence[Judged]:
        if writer is not None:
            return writer.write(context, profile.objects)
        if content.refusal is None or "sr" not in profile.objects:
            return ()
        report = write_refusal(
            context,
            content.headers,
            reason=content.refusal.reason,
            message=content.refusal.message,
        )
        return (Judged(report, context.forms.get(report.role, "")),)

    def _following(self, profile: Profile, giving_way: Sequence[Predecessor]) -> ResultContext:
        """Return the context of a form, naming the reports that a destination may have of it."""
        reports = [one for one in giving_way if one.role == "sr" and one.has_left]
        form = profile.form_of("sr")
        same = [one for one in reports if one.form == form]
        named = tuple(self._reference(one) for one in same or reports)
        return replace(self._context.in_form(profile), predecessors=named)

    def _reference(self, one: Predecessor) -> InstanceReference:
        return InstanceReference(
            self._study_uid, one.series_instance_uid, one.sop_class_uid, one.sop_instance_uid
        )

    def _store(self, judged: Judged) -> StoredObject:
        if judged.fault is not None:
            return self._set_apart(judged, judged.fault)
        stored = _store(self._archive, judged.result)
        reviewed = self._context.review is not None
        row = replace(stored.result, form=judged.form, reviewed=reviewed)
        # Other forms of what is here already are for destinations alone.
        return replace(stored, result=row, received=None if judged.form else stored.received)

    def _set_apart(self, judged: Judged, fault: InvalidResult) -> StoredObject:
        result = judged.result
        file = self._archive.quarantine(
            result.content, job_id=self._context.job_id, name=result.sop_instance_uid
        )
        return StoredObject(
            StoredResult(
                role=result.role.value,
                sop_class_uid=result.sop_class_uid,
                sop_instance_uid=result.sop_instance_uid,
                series_instance_uid=result.series_instance_uid,
                transfer_syntax_uid=result.transfer_syntax_uid,
                path=file.path,
                sha256=file.sha256,
                size_bytes=file.size_bytes,
                state=ResultState.QUARANTINED,
                reason=fault.reason,
                message=fault.message,
                form=judged.form,
                reviewed=self._context.review is not None,
            )
        )


def display_of(image: Volume | Radiograph) -> Display | None:
    """Return the pixels to draw on, on the source frames; a resampled volume has none."""
    if isinstance(image, Radiograph):
        low, high = np.percentile(image.pixels, _RADIOGRAPH_PERCENTILES)
        return Display(image.map_on_source(image.pixels)[None], window=(float(low), float(high)))
    return None if image.is_resampled else Display(image.voxels)


def context_of(
    held: Claim, described: Package | None, header: bytes, *, document: str, station: str
) -> ResultContext:
    """Return what a job's results say beyond the findings.

    `described` is the model's own account, where it is installed; `document` the job that the
    results belong to.
    """
    return ResultContext(
        job_id=document,
        source_header=header,
        created_at=held.created_at,
        model=ModelIdentity(
            name=held.model_name,
            version=held.model_version,
            sha256=held.model_sha256,
            title=described.title if described else held.model_name,
            intended_use=described.intended_use if described else "",
            limitations=described.limitations if described else "",
            parameters={
                key: str(value)
                for key, value in sorted(held.parameters.items())
                if not isinstance(value, Mapping)
            },
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
