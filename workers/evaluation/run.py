"""One evaluation, top to bottom: find images and references, run the package, score, collect."""

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from service.core.errors import ContractViolation, InvalidRequest, UnsuitableSeries
from service.core.identifiers import finding_id, tracking_uid
from service.core.manifest import Manifest
from workers.evaluation.classification_scores import ClassificationScores
from workers.evaluation.curves import Chart
from workers.evaluation.detection_scores import DetectionScores
from workers.evaluation.folder import Folder, ImageSeries, ReferenceFile, read_folder
from workers.evaluation.reference_objects import Planes, read_object, referenced_uids
from workers.evaluation.reference_tables import Tables, read_tables
from workers.evaluation.references import Classes, Truth, joined
from workers.evaluation.scoring import Case, Figures, Scores, groups_of, rounded, subgroups
from workers.evaluation.segmentation_scores import SegmentationScores
from workers.models import LoadedModel, volume_rules
from workers.volume.radiograph import Radiograph, load_radiograph
from workers.volume.series import Volume, load_volume

_PICTURES = 12

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class WorstCase:
    """A case that went badly: where, in words, and its picture as a data URI."""

    series_uid: str
    caption: str
    picture: str


@dataclass
class Evaluation:
    """What an evaluation found; `document` is the JSON, without pictures and curves."""

    document: Figures
    charts: list[Chart]
    worst: list[WorstCase]
    analysed: int
    failed: int


@dataclass
class _Tally:
    cases: list[Case] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    worst: list[tuple[float, int, WorstCase]] = field(default_factory=list)


@dataclass(frozen=True)
class _Task:
    series: ImageSeries
    files: tuple[ReferenceFile, ...]


def evaluate(
    model: LoadedModel,
    data: Path,
    *,
    operating_point: str | None = None,
    limit: int | None = None,
    progress: Progress,
) -> Evaluation:
    """Measure a package on a folder of studies with references.

    Parameters
    ----------
    limit
        Analyse no more than this many series or radiographs.
    progress
        Hears a stage, how much of it is done, and how much there is (0: not known).

    Raises
    ------
    InvalidRequest
        ``DATA`` or ``REFERENCE``: nothing to measure on, or a table that cannot be read.
    """
    manifest = model.package.manifest
    classes = Classes(manifest)
    folder = read_folder(data, lambda count: progress("reading", count, 0))
    tables = read_tables(folder.tables, classes)
    tasks = _tasks(folder, tables, manifest, data)[:limit]
    tally, scores = _Tally(), _scores_of(manifest)
    for number, task in enumerate(tasks):
        progress("analysing", number, len(tasks))
        _measure(task, model, tables, classes, operating_point, scores, tally)
    progress("analysing", len(tasks), len(tasks))
    document = _document(model, folder, tally, scores)
    worst = [case for _, _, case in sorted(tally.worst, key=lambda entry: -entry[0])]
    charts = scores.charts() if tally.cases else []
    return Evaluation(document, charts, worst, len(tally.cases), sum(tally.failed.values()))


def _scores_of(manifest: Manifest) -> Scores:
    kinds: dict[str, Callable[[Manifest], Scores]] = {
        "detection": DetectionScores,
        "segmentation": SegmentationScores,
        "classification": ClassificationScores,
    }
    return kinds[manifest.package.kind](manifest)


def _tasks(folder: Folder, tables: Tables, manifest: Manifest, data: Path) -> list[_Task]:
    """Return the images that a reference speaks of and the package is for.

    Raises
    ------
    InvalidRequest
        ``REFERENCE`` when there are none, saying what there is.
    """
    by_file = {file: referenced_uids(file.path) for file in folder.references}
    tasks = []
    for series in _images(folder.series, manifest):
        own = {item.header.sop_instance_uid for item in series.instances} | {series.uid}
        files = tuple(file for file, uids in by_file.items() if own & uids)
        if files or tables.truth_of(series) is not None:
            tasks.append(_Task(series, files))
    if not tasks:
        raise InvalidRequest(
            "REFERENCE",
            f"--data: found {len(folder.series)} series, {len(folder.references)} reference objects"
            f" and {len(folder.tables)} tables in {data}, allowed images of"
            f" {', '.join(manifest.applicability.modalities)} with a SEG, SR or RTSTRUCT that"
            " refers to them, or a CSV of lesions or labels that names them",
        )
    return tasks


def _images(series: Sequence[ImageSeries], manifest: Manifest) -> Iterator[ImageSeries]:
    """Yield what the package takes: series, or radiographs one by one."""
    wanted = manifest.applicability
    least = max(2, int(wanted.slices.minimum or 2))
    for one in series:
        if one.header.modality not in wanted.modalities:
            continue
        if manifest.package.kind == "classification":
            yield from (replace(one, instances=(item,)) for item in one.instances)
        elif one.slices >= least and "LOCALIZER" not in one.header.image_type:
            yield one


def _measure(
    task: _Task,
    model: LoadedModel,
    tables: Tables,
    classes: Classes,
    operating_point: str | None,
    scores: Scores,
    tally: _Tally,
) -> None:
    """Run and score one case; what is refused or fails is counted and does not end the rest."""
    started = time.perf_counter()
    uid = task.series.uid
    try:
        image = _read(task.series, model)
        truth = _truth(task, image, tables, classes, tally)
        if not truth.says_anything and not tables.lists_lesions:
            tally.failed["REFERENCE"] += 1
            return
        analysis = model.analyse(
            image,
            identify=lambda rank: (finding_id(uid, rank), tracking_uid(uid, rank)),
            operating_point=operating_point,
        )
    except UnsuitableSeries as error:
        tally.refused[error.reason] += 1
        tally.remarks.append(f"{uid}: refused: {error}")
        return
    except ContractViolation as error:
        tally.failed[error.reason] += 1
        tally.remarks.append(f"{uid}: failed: {error}")
        return
    shown = scores.add(image, analysis, truth)
    tally.cases.append(Case(task.series, groups_of(task.series), time.perf_counter() - started))
    if len(tally.worst) < _PICTURES or shown.badness > tally.worst[0][0]:
        case = WorstCase(uid, shown.caption, shown.draw())
        heapq.heappush(tally.worst, (shown.badness, len(tally.cases), case))
        del tally.worst[_PICTURES:]


def _read(series: ImageSeries, model: LoadedModel) -> Volume | Radiograph:
    manifest = model.package.manifest
    if model.reads_volumes:
        return load_volume(series.instances, volume_rules(manifest))
    return load_radiograph(
        series.instances[0], invert_monochrome1=manifest.input.invert_monochrome1
    )


def _truth(
    task: _Task, image: Volume | Radiograph, tables: Tables, classes: Classes, tally: _Tally
) -> Truth:
    """Return what all references say of an image; one that cannot be read is remarked on."""
    volume = image if isinstance(image, Volume) else None
    shape = volume.source_shape if volume else (1, *_stored_shape(image))
    frames = volume.frames if volume else (image.frame,)  # type: ignore[union-attr]
    planes = Planes(tuple(frames), shape, volume)
    truths = [tables.truth_of(task.series) or Truth()]
    for file in task.files:
        try:
            truths.append(read_object(file.kind, file.path, planes, classes))
        except InvalidRequest as error:
            tally.remarks.append(f"{task.series.uid}: {error}")
    return joined(truths)


def _stored_shape(image: Volume | Radiograph) -> tuple[int, int]:
    assert isinstance(image, Radiograph)
    rows, columns = image.map_on_source(image.pixels).shape
    return rows, columns


def _document(model: LoadedModel, folder: Folder, tally: _Tally, scores: Scores) -> Figures:
    package = model.package
    return {
        "package": {
            "name": package.name,
            "version": package.version,
            "sha256": package.sha256,
            "kind": package.kind,
            "device": model.device,
        },
        "data": {
            "series": len(folder.series),
            "references": dict(Counter(file.kind for file in folder.references)),
            "tables": [path.name for path in folder.tables],
            "analysed": len(tally.cases),
            "refused": dict(tally.refused),
            "failed": dict(tally.failed),
            "files_skipped": folder.skipped,
        },
        "seconds_per_case": rounded(
            sum(case.seconds for case in tally.cases) / max(1, len(tally.cases))
        ),
        "figures": scores.figures() if tally.cases else {},
        "subgroups": subgroups(tally.cases, scores),
        "cases": [
            {
                "series_instance_uid": case.series.uid,
                "sop_instance_uid": case.series.header.sop_instance_uid,
                **case.groups,
                "seconds": rounded(case.seconds),
                **scores.case_figures(number),
            }
            for number, case in enumerate(tally.cases)
        ],
        "remarks": tally.remarks,
    }
