"""Series to voxels, against one `np.fromfile` of the same voxels and against pydicom.

All contenders read the same files in one run, in turn, from a warm cache.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import (
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.benchmarks.measure import Goal, Report
from tests.builders.dicom import AXIAL, ct_series, in_syntax, pattern_hu
from tests.builders.volumes import sources
from workers.volume.plan import VolumeRules
from workers.volume.series import load_volume

SYNTAXES = [
    ExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEGLosslessSV1,
    JPEG2000Lossless,
    HTJ2KLossless,
]


def seconds_each(
    contenders: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[tuple[float, float]]]:
    """Time every contender in turn, so that what else the machine does meets all alike.

    Each time is a pair: on the wall, and of this process on all its processors.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return times


def by_pydicom(paths: Sequence[Path]) -> np.ndarray:
    """Read a series the common way: whole data sets, sorted, stacked and rescaled."""
    datasets = [pydicom.dcmread(path) for path in paths]
    datasets.sort(key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    stacked = np.stack([dataset.pixel_array for dataset in datasets]).astype(np.int16)
    return stacked + np.int16(datasets[0].RescaleIntercept)


def measure(slices: int, repeats: int) -> list[dict[str, object]]:
    """Measure every syntax on a noisy CT of 512 x 512 pixels."""
    noise = np.random.default_rng(1).normal(0, 12, (slices, 512, 512))
    hounsfield = (pattern_hu(slices, 512, 512) + noise).round().clip(-1024, 3071)
    native = ct_series(hounsfield=hounsfield, orientation=AXIAL, bits_stored=12)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "voxels.raw"
        hounsfield.astype(np.int16).tofile(raw)
        for syntax in SYNTAXES:
            encoded = [in_syntax(instance, syntax) for instance in native]
            archived = sources(encoded, Path(folder) / syntax.keyword)
            paths = [source.path for source in archived]
            contenders: dict[str, Callable[[], object]] = {
                "fromfile": lambda: np.fromfile(raw, np.int16),
                "ours, 1 thread": lambda a=archived: load_volume(a, VolumeRules(), threads=1),
                "ours, 2 threads": lambda a=archived: load_volume(a, VolumeRules(), threads=2),
                "ours, verified": lambda a=archived: load_volume(a, VolumeRules(), verify=True),
            }
            if syntax != JPEGLosslessSV1:  # pydicom has no permissive decoder for it
                contenders["pydicom"] = lambda p=paths: by_pydicom(p)
            times = seconds_each(contenders, repeats)
            base = [statistics.median(column) for column in zip(*times["fromfile"], strict=True)]
            for name, taken in times.items():
                wall, processor = zip(*taken, strict=True)
                results.append(
                    {
                        "syntax": syntax.keyword,
                        "contender": name,
                        "values_ms": [1e3 * value for value in wall],
                        "median_ms": 1e3 * statistics.median(wall),
                        "least_ms": 1e3 * min(wall),
                        "most_ms": 1e3 * max(wall),
                        "processor_ms": 1e3 * statistics.median(processor),
                        "ratio": statistics.median(wall) / base[0],
                        "processor_ratio": statistics.median(processor) / base[1],
                    }
                )
    return results


def run(*, rounds: int = 5, slices: int = 100) -> Report:
    """Measure every syntax, and compare with the goals."""
    warnings.simplefilter("ignore")
    report = Report("volume")
    rows = measure(slices, rounds)
    ratio: dict[tuple[str, str], float] = {}
    for row in rows:
        case, contender = str(row["syntax"]), str(row["contender"])
        ratio[case, contender] = float(str(row["median_ms"]))
        report.add(case, contender, "wall", "ms", row["values_ms"])  # type: ignore[arg-type]
        report.add(case, contender, "processor", "ms", [float(str(row["processor_ms"]))])
    native = ExplicitVRLittleEndian.keyword
    ours = "ours, 2 threads"
    against = ratio[native, ours] / ratio[native, "fromfile"]
    report.goals.append(Goal("native against np.fromfile", against, 1.25, at_most=True))
    for case, contender in list(ratio):
        if contender == "pydicom" and case != native:
            faster = ratio[case, "pydicom"] / ratio[case, ours]
            report.goals.append(Goal(f"{case}: against pydicom", faster, 2))
    return report
