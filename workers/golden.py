"""Golden cases: an input kept with a package, and the findings it has to give."""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from service.core.errors import ContractViolation, InvalidModel
from service.core.findings import Analysis, Finding, Qualifier
from service.core.geometry import Floats, stack_planes
from service.core.headers import FrameHeader, InstanceHeader, SourceFrame, Triple
from service.core.identifiers import derive_uid, finding_id, tracking_uid
from service.core.manifest_output import Golden
from workers.inference.files import pinned_bytes
from workers.models import LoadedModel
from workers.volume.radiograph import Radiograph, Turn
from workers.volume.series import Volume
from workers.volume.values import HOUNSFIELD, Values

INPUT_BYTES_LIMIT = 64 << 20
_UNPACKED_BYTES_LIMIT = 1 << 30


class Expected(BaseModel):
    """What one finding has to be, within the golden case's tolerances."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_name: str
    probability: float
    qualifier: Qualifier
    center_mm: Triple | None = None
    measurements: dict[str, float] = {}


class ExpectedFindings(BaseModel):
    """The file that a golden case names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    findings: tuple[Expected, ...]


def run_golden(model: LoadedModel, golden: Golden) -> None:
    """Run a golden case and compare what the model finds.

    Raises
    ------
    InvalidModel
        ``GOLDEN`` with the first difference; ``DIGEST`` or ``MODEL_FILE`` for its files.
    """
    folder, place = model.package.folder, f"{model.package.name}: golden {golden.name}"
    content = pinned_bytes(
        folder, golden.input, sha256=golden.input_sha256, limit_bytes=INPUT_BYTES_LIMIT
    )
    text = pinned_bytes(folder, golden.expected, sha256=golden.expected_sha256, limit_bytes=1 << 20)
    try:
        expected = ExpectedFindings.model_validate_json(text).findings
    except ValidationError as error:
        raise InvalidModel("GOLDEN", f"{place}: {golden.expected}: not readable") from error
    try:
        analysis = analyse_input(model, content)
    except ContractViolation as error:
        raise InvalidModel("GOLDEN", f"{place}: {error}") from error
    if fault := _difference(expected, analysis.findings, golden):
        raise InvalidModel("GOLDEN", f"{place}: {fault}")


def analyse_input(model: LoadedModel, content: bytes) -> Analysis:
    """Analyse the bytes of a golden input as if they were a series."""
    arrays = _arrays(content, model.package.name)
    _require_image(arrays, model)
    image = _volume(arrays) if model.reads_volumes else _radiograph(arrays)
    return model.analyse(
        image, identify=lambda rank: (finding_id("golden", rank), tracking_uid("golden", rank))
    )


def expected_of(analysis: Analysis) -> bytes:
    """Return the findings that are more than absent as the file that a golden case names."""
    findings = [
        Expected(
            class_name=finding.class_name,
            probability=round(finding.probability, 4),
            qualifier=finding.qualifier,
            center_mm=_rounded(finding),
            measurements={item.name: round(item.value, 3) for item in finding.measurements},
        )
        for finding in analysis.findings
        if finding.qualifier is not Qualifier.ABSENT
    ]
    document = ExpectedFindings(findings=tuple(findings)).model_dump(mode="json")
    return (json.dumps(document, indent=1) + "\n").encode()


def _difference(
    expected: Sequence[Expected], found: Sequence[Finding], golden: Golden
) -> str | None:
    """Return the first difference in words, or None."""
    left = list(found)
    for number, wanted in enumerate(expected, start=1):
        near = [finding for finding in left if _is_same(wanted, finding, golden)]
        if not near:
            return f"finding {number} ({wanted.class_name} at {wanted.center_mm}) was not found"
        match = max(near, key=lambda finding: finding.probability)
        left.remove(match)
        if fault := _unlike(wanted, match, golden):
            return f"finding {number} ({wanted.class_name}): {fault}"
    for finding in left:
        if finding.qualifier is Qualifier.PRESENT:
            return f"found a {finding.class_name} more than allowed, at {_rounded(finding)}"
    return None


def _is_same(wanted: Expected, found: Finding, golden: Golden) -> bool:
    if wanted.class_name != found.class_name:
        return False
    place = found.location.center_mm if found.location else None
    if wanted.center_mm is None or place is None:
        return wanted.center_mm == place
    away = np.linalg.norm(np.subtract(wanted.center_mm, place))
    return bool(away <= golden.center_tolerance_mm)


def _unlike(wanted: Expected, found: Finding, golden: Golden) -> str | None:
    if abs(wanted.probability - found.probability) > golden.probability_tolerance:
        return (
            f"probability: found {found.probability:.4f}, "
            f"allowed {wanted.probability:.4f} within {golden.probability_tolerance:g}"
        )
    for name, value in wanted.measurements.items():
        measured = found.measured(name)
        if measured is None:
            return f"{name}: found nothing, allowed {value:g}"
        # A tenth of a unit covers rounding where the value itself is near 0 (HU).
        allowed = max(golden.measurement_tolerance * abs(value), 0.1)
        if abs(measured - value) > allowed:
            return f"{name}: found {measured:.3f}, allowed {value:g} within {allowed:.3f}"
    return None


def _rounded(finding: Finding) -> Triple | None:
    center = finding.location.center_mm if finding.location else None
    return (round(center[0], 2), round(center[1], 2), round(center[2], 2)) if center else None


def _arrays(content: bytes, package: str) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz`` without pickles, bounded once unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > _UNPACKED_BYTES_LIMIT:
            raise InvalidModel("GOLDEN", f"{package}: input holds {unpacked} bytes")
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise InvalidModel("GOLDEN", f"{package}: input is not readable: {error}") from error


def _require_image(arrays: dict[str, NDArray[Any]], model: LoadedModel) -> None:
    name, dimensions = ("voxels", 3) if model.reads_volumes else ("pixels", 2)
    pixels = arrays.get(name)
    if pixels is None or pixels.ndim != dimensions or pixels.dtype.kind not in "iuf":
        raise InvalidModel(
            "GOLDEN", f"{model.package.name}: input: allowed {name} of {dimensions} dimensions"
        )
    if not model.reads_volumes:
        return
    affine = arrays.get("affine", np.zeros((4, 4)))
    placed = affine.shape == (4, 4) and np.isfinite(affine).all()
    if not placed or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise InvalidModel("GOLDEN", f"{model.package.name}: input: allowed an affine of 4 x 4")
    if np.linalg.det(affine[:3, :3]) < 0:
        raise InvalidModel("GOLDEN", f"{model.package.name}: input: slices run against the normal")


def volume_of(voxels: Values, affine: Floats, *, unit: str = HOUNSFIELD) -> Volume:
    """Return voxels that never were a DICOM series as a volume, on planes made up for them.

    Parameters
    ----------
    voxels
        Shape (slices, rows, columns).
    affine
        4x4, (column, row, slice) to LPS mm, with orthogonal axes; (column, row, slice) has to be
        right-handed, as in any series ordered along its normal.
    """
    frames = tuple(
        SourceFrame(_header(index, voxels.shape[1:], affine)) for index in range(len(voxels))
    )
    stack, _ = stack_planes([frame.geometry for frame in frames], orientation_tolerance_degrees=0.5)
    return Volume(voxels=voxels, affine=affine, unit=unit, frames=frames, stack=stack)


def _volume(arrays: dict[str, NDArray[Any]]) -> Volume:
    unit = str(arrays["unit"]) if "unit" in arrays else HOUNSFIELD
    return volume_of(arrays["voxels"], np.asarray(arrays["affine"], dtype=np.float64), unit=unit)


def _radiograph(arrays: dict[str, NDArray[Any]]) -> Radiograph:
    pixels = np.asarray(arrays["pixels"], dtype=np.float32)
    spacing = arrays.get("spacing_mm")
    return Radiograph(
        pixels=pixels,
        value_range=(float(pixels.min()), float(pixels.max())),
        frame=SourceFrame(_header(0, pixels.shape, np.eye(4))),
        turn=Turn(),
        spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1])),
    )


def _header(index: int, shape: tuple[int, ...], affine: Floats) -> InstanceHeader:
    """Return the header of a plane that never was a DICOM instance."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :2] / lengths[:2]
    x, y, z = affine[:3, 3] + affine[:3, 2] * index
    plane = FrameHeader(
        image_position_mm=(x, y, z),
        image_orientation=tuple(cosines.T.ravel().tolist()),
        row_spacing_mm=float(lengths[1]),
        column_spacing_mm=float(lengths[0]),
    )
    return InstanceHeader(
        sop_class_uid=derive_uid("golden"),
        sop_instance_uid=derive_uid("golden", str(index)),
        study_instance_uid=derive_uid("golden", "study"),
        series_instance_uid=derive_uid("golden", "series"),
        transfer_syntax_uid=derive_uid("golden"),
        rows=shape[0],
        columns=shape[1],
        **plane.model_dump(
            include={
                "image_position_mm", "image_orientation", "row_spacing_mm", "column_spacing_mm",
            }
        ),
    )  # fmt: skip


def golden_section(name: str, expected: bytes, content: bytes) -> str:
    """Return the manifest's section for a golden case whose files lie in ``golden/``."""
    return (
        "[[golden]]\n"
        f'name = "{name}"\n'
        f'input = "golden/{name}.npz"\n'
        f'input_sha256 = "{hashlib.sha256(content).hexdigest()}"\n'
        f'expected = "golden/{name}.json"\n'
        f'expected_sha256 = "{hashlib.sha256(expected).hexdigest()}"\n'
    )
