"""Writing SEG and SR beside plain highdicom, with the same content read back from both.

The plain way opens the 300 source files again, as its interface wants data sets; ours has the rows
written at receipt. Processor time counts, on one series of 300 frames of 512 x 512.
"""

import io
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as concepts

from service.core.findings import Analysis
from service.core.headers import SourceFrame
from tests.benchmarks.measure import Goal, Report, in_turn
from tests.builders.dicom import AXIAL, ct_series, part10
from tests.builders.results import nodules, result_context, source_frames
from workers.results.seg import write_seg
from workers.results.source import read_source
from workers.results.sr import write_sr

_FRAMES, _ROWS = 300, 512
_FINDINGS = 50
_MANUFACTURER = {
    "manufacturer": "plain",
    "manufacturer_model_name": "plain",
    "software_versions": "1",
    "device_serial_number": "1",
}


def run(*, rounds: int = 3) -> Report:
    """Write each object in turn by both ways; stop when they say different things."""
    report = Report("results")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="overread-results-") as folder:
        instances = _series()
        paths = []
        for number, instance in enumerate(instances):
            path = Path(folder) / f"{number}.dcm"
            path.write_bytes(part10(instance))
            paths.append(path)
        frames = source_frames(instances)
        for count in (1, 8):
            _segmentation(report, count, instances, frames, paths, rounds)
        _document(report, instances, frames, paths, rounds)
    for case in ("SEG, 1 segment", "SEG, 8 segments", f"SR, {_FINDINGS} findings"):
        ratio = report.median(case, "overread", "processor") / report.median(
            case, "highdicom", "processor"
        )
        report.goals.append(
            Goal(f"{case}: processor against highdicom", ratio, 1 / 3, at_most=True)
        )
    return report


def _series() -> list[Dataset]:
    values = np.zeros((_FRAMES, _ROWS, _ROWS), np.int16)
    return ct_series(hounsfield=values, orientation=AXIAL, bits_stored=12)


def _segmentation(
    report: Report,
    count: int,
    instances: Sequence[Dataset],
    frames: list[SourceFrame],
    paths: Sequence[Path],
    rounds: int,
) -> None:
    analysis = nodules(frames, count)
    drawn = _drawn(analysis, frames)
    context = result_context(instances[0])

    def ours() -> bytes:
        written = write_seg(context, read_source(context.source_header), analysis, frames=frames)
        assert written is not None
        return written.content

    def plain() -> bytes:
        sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
        algorithm = hd.AlgorithmIdentificationSequence(
            name="plain", version="1", family=concepts.DCM.ArtificialIntelligence
        )
        described = [
            hd.seg.SegmentDescription(
                segment_number=number + 1,
                segment_label=f"nodule {number + 1}",
                segmented_property_category=concepts.SCT.MorphologicallyAbnormalStructure,
                segmented_property_type=concepts.SCT.Nodule,
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm,
            )
            for number in range(count)
        ]
        written = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=drawn,
            segmentation_type="BINARY",
            segment_descriptions=described,
            series_instance_uid=hd.UID(),
            series_number=900,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            **_MANUFACTURER,
        )
        return _saved(written)

    uids = [frame.instance.sop_instance_uid for frame in frames]
    for content in (ours(), plain()):
        read = hd.seg.segread(io.BytesIO(content)).get_pixels_by_source_instance(
            source_sop_instance_uids=uids, assert_missing_frames_are_empty=True
        )
        assert np.array_equal(read.astype(bool), drawn), "another segmentation was read back"
    name = f"SEG, {count} segment{'s' if count > 1 else ''}"
    _compare(report, name, {"overread": ours, "highdicom": plain}, rounds)


def _document(
    report: Report,
    instances: Sequence[Dataset],
    frames: list[SourceFrame],
    paths: Sequence[Path],
    rounds: int,
) -> None:
    analysis = without_segments(nodules(frames, _FINDINGS))
    context = result_context(instances[0])

    def ours() -> bytes:
        source = read_source(context.source_header)
        return write_sr(context, source, analysis, frames=frames, segmentation=None).content

    def plain() -> bytes:
        sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
        report = hd.sr.MeasurementReport(
            observation_context=_observer(),
            procedure_reported=concepts.LN.CTUnspecifiedBodyRegion,
            imaging_measurements=[_group(analysis, rank) for rank in range(_FINDINGS)],
            title=concepts.DCM.ImagingMeasurementReport,
        )
        written = hd.sr.Comprehensive3DSR(
            evidence=sources,
            content=report,
            series_number=901,
            series_instance_uid=hd.UID(),
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="plain",
        )
        return _saved(written)

    wanted = {round(each.value, 3) for one in analysis.findings for each in one.measurements}
    for content in (ours(), plain()):
        said = set(_numbers(pydicom.dcmread(io.BytesIO(content))))
        assert wanted <= {round(value, 3) for value in said}, "another report was read back"
    _compare(report, f"SR, {_FINDINGS} findings", {"overread": ours, "highdicom": plain}, rounds)


def without_segments(analysis: Analysis) -> Analysis:
    """Return the findings as a report alone tells them."""
    alone = (one.model_copy(update={"segment_number": None}) for one in analysis.findings)
    return Analysis(findings=tuple(alone))


def _group(analysis: Analysis, rank: int) -> Any:
    finding = analysis.findings[rank]
    region = finding.location.regions[0] if finding.location else None
    assert region is not None
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=finding.tracking_uid, identifier=finding.tracking_id
        ),
        referenced_region=hd.sr.ImageRegion(
            graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
            graphic_data=np.array(region.points),
            source_image=hd.sr.SourceImageForRegion(
                referenced_sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                referenced_sop_instance_uid=region.sop_instance_uid,
            ),
        ),
        finding_type=concepts.SCT.Nodule,
        measurements=[
            hd.sr.Measurement(
                name=_concept(each.code),
                value=each.value,
                unit=CodedConcept(each.unit, "UCUM", each.unit),
            )
            for each in finding.measurements
        ],
    )


def _concept(code: Any) -> CodedConcept:
    if code is None:
        return CodedConcept("sd", "99BENCH", "Standard deviation")
    return CodedConcept(code.value, code.scheme, code.meaning)


def _observer() -> Any:
    device = hd.sr.ObserverContext(
        observer_type=concepts.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(uid=hd.UID()),
    )
    return hd.sr.ObservationContext(observer_device_context=device)


def _drawn(analysis: Analysis, frames: Sequence[SourceFrame]) -> NDArray[np.bool_]:
    """Return what was found on the source grid, shape (frames, rows, columns, segments)."""
    whole = np.zeros((len(frames), _ROWS, _ROWS, len(analysis.findings)), np.bool_)
    for number, finding in enumerate(analysis.findings):
        mask = analysis.masks[finding.id]
        ends = np.add(mask.offset, mask.voxels.shape)
        place = tuple(slice(a, b) for a, b in zip(mask.offset, ends, strict=True))
        whole[(*place, number)] = mask.voxels
    return whole


def _numbers(dataset: Dataset) -> list[float]:
    found = [float(dataset.NumericValue)] if "NumericValue" in dataset else []
    for keyword in ("ContentSequence", "MeasuredValueSequence"):
        for item in dataset.get(keyword) or ():
            found += _numbers(item)
    return found


def _saved(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def _compare(
    report: Report, case: str, contenders: dict[str, Callable[[], bytes]], rounds: int
) -> None:
    def timed(write: Callable[[], bytes]) -> Callable[[], float]:
        def once() -> float:
            started = time.process_time()
            write()
            return 1e3 * (time.process_time() - started)

        return once

    measured = in_turn({name: timed(write) for name, write in contenders.items()}, rounds)
    for name, values in measured.items():
        report.add(case, name, "processor", "ms", values)
