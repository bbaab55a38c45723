"""Write a synthetic CT as a DICOM series: regular, turned, tilted, incomplete or duplicated.

Everything in the files follows from the voxels, their grid and a `Description`, so the same patient
is always written as the same instances, UIDs included. Voxels are HU, int16, ``[k, j, i]`` with k
to the head, j to the back and i to the patient's left, as `models.phantoms.geometry.Grid` has them.

References
----------
DICOM PS3.3 A.3, CT Image IOD; C.7.6.2, Image Plane; C.8.2.1, CT Image.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from models.phantoms.geometry import Grid

INTERCEPT_HU = -1024
PADDING_HU = -2000
_NAMESPACE = uuid.UUID("0b3c9d1e-6f43-5c5b-9d5f-6a1e52b0c7aa")
IMPLEMENTATION_CLASS_UID = "2.25." + str(uuid.uuid5(_NAMESPACE, "phantoms").int)

Voxels = NDArray[np.int16]


class PatientPosition(StrEnum):
    """How the patient lay (0018,5100); the image is as the scanner shows it, unturned."""

    HEAD_FIRST_SUPINE = "HFS"
    HEAD_FIRST_PRONE = "HFP"
    FEET_FIRST_SUPINE = "FFS"
    FEET_FIRST_PRONE = "FFP"


@dataclass(frozen=True)
class Description:
    """What the headers say; `identity` alone decides all UIDs.

    Dates are DICOM DA, times TM. `contrast_agent` empty means none was given.
    """

    identity: str
    patient_name: str = "Phantom^Chest"
    patient_id: str = "PHANTOM-0"
    patient_sex: str = "O"
    patient_birth_date: str = "19600101"
    study_date: str = "20260102"
    study_time: str = "101500"
    accession_number: str = "SYN0001"
    study_description: str = "CT CHEST"
    series_description: str = "CHEST AXIAL"
    series_number: int = 2
    body_part: str = "CHEST"
    kernel: str = "STANDARD"
    thickness_mm: float = 2.5
    contrast_agent: str = ""
    institution: str = "Synthetic Hospital"
    window: tuple[int, int] = (-600, 1500)

    @property
    def study_instance_uid(self) -> str:
        """UID of the study."""
        return derive(self.identity, "study")

    @property
    def series_instance_uid(self) -> str:
        """UID of the series."""
        return derive(self.identity, "series", str(self.series_number))


@dataclass(frozen=True)
class Layout:
    """How the series departs from a plain one; slices are counted from the feet.

    Attributes
    ----------
    position
        Turns the images as a scanner would: prone ones upside down, feet first in other order.
    gantry_tilt_degrees
        Planes lean by this angle while the table still moves along the body.
    missing
        Slices left out.
    duplicated
        Slices written twice, the second time under another instance UID.
    gap
        After this slice the table jumps by so many mm; None for no gap.
    image_type
        Image Type (0008,0008).
    """

    position: PatientPosition = PatientPosition.HEAD_FIRST_SUPINE
    gantry_tilt_degrees: float = 0.0
    missing: frozenset[int] = frozenset()
    duplicated: frozenset[int] = frozenset()
    gap: tuple[int, float] | None = None
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")


PLAIN = Layout()


def derive(*parts: str) -> str:
    """Return the UID that belongs to these words, the same in every run (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(parts)).int}"


def write_ct(
    voxels: Voxels, grid: Grid, description: Description, folder: Path, *, layout: Layout = PLAIN
) -> list[Path]:
    """Write one file per slice, ``0000.dcm`` and on, and return their paths in that order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(ct_instances(voxels, grid, description, layout=layout)):
        paths.append(folder / f"{number:04d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def ct_instances(
    voxels: Voxels, grid: Grid, description: Description, *, layout: Layout = PLAIN
) -> Iterator[Dataset]:
    """Yield the instances of a series in the order in which a scanner would number them.

    Raises
    ------
    ValueError
        The voxels do not have the grid's shape.
    """
    if voxels.shape != grid.shape:
        message = f"voxels {voxels.shape} do not lie on a grid of {grid.shape}"
        raise ValueError(message)
    order = [k for k in range(grid.shape[0]) if k not in layout.missing]
    if layout.position in (PatientPosition.FEET_FIRST_SUPINE, PatientPosition.FEET_FIRST_PRONE):
        order.reverse()
    common = _common(grid, description, layout)
    number = 0
    for k in order:
        for copy in range(2 if k in layout.duplicated else 1):
            number += 1
            yield _slice(common, (voxels, grid), (k, copy, number), layout)


def _common(grid: Grid, about: Description, layout: Layout) -> Dataset:
    """Return what all instances of the series share."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = list(layout.image_type)
    ds.SOPClassUID = CTImageStorage
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = about.study_date
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = about.study_time
    ds.AccessionNumber = about.accession_number
    ds.Modality = "CT"
    ds.Manufacturer = "overread phantoms"
    ds.InstitutionName = about.institution
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = about.study_description
    ds.SeriesDescription = about.series_description
    ds.ManufacturerModelName = "Synthetic CT"
    ds.PatientName, ds.PatientID = about.patient_name, about.patient_id
    ds.PatientBirthDate, ds.PatientSex = about.patient_birth_date, about.patient_sex
    if about.contrast_agent:
        ds.ContrastBolusAgent = about.contrast_agent
    ds.BodyPartExamined = about.body_part
    ds.SliceThickness = format_number_as_ds(float(about.thickness_mm))
    ds.KVP = "120"
    ds.DataCollectionDiameter = "500"
    ds.DeviceSerialNumber = "1"
    ds.SoftwareVersions = "1"
    ds.ProtocolName = about.series_description
    ds.ReconstructionDiameter = format_number_as_ds(float(grid.shape[2] * grid.spacing_mm[0]))
    ds.GantryDetectorTilt = format_number_as_ds(float(layout.gantry_tilt_degrees))
    ds.ConvolutionKernel = about.kernel
    ds.PatientPosition = str(layout.position)
    ds.StudyInstanceUID = about.study_instance_uid
    ds.SeriesInstanceUID = about.series_instance_uid
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "1", str(about.series_number), "1"
    ds.FrameOfReferenceUID = derive(about.identity, "frame")
    ds.PositionReferenceIndicator = ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = grid.shape[1], grid.shape[2]
    ds.PixelSpacing = [format_number_as_ds(float(grid.spacing_mm[a])) for a in (1, 0)]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.add_new("PixelPaddingValue", "SS", PADDING_HU - INTERCEPT_HU)
    ds.WindowCenter, ds.WindowWidth = str(about.window[0]), str(about.window[1])
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(INTERCEPT_HU), "1", "HU"
    return ds


def _slice(
    common: Dataset, volume: tuple[Voxels, Grid], which: tuple[int, int, int], layout: Layout
) -> Dataset:
    k, copy, number = which
    ds = Dataset()
    ds.update(common)
    ds.SOPInstanceUID = UID(derive(str(common.SeriesInstanceUID), str(k), str(copy)))
    cosines, origin = _plane(volume[1], k, layout)
    ds.ImageOrientationPatient = [format_number_as_ds(float(c)) for c in cosines.ravel()]
    ds.ImagePositionPatient = [format_number_as_ds(float(c)) for c in origin]
    ds.SliceLocation = format_number_as_ds(float(origin[2]))
    ds.InstanceNumber = str(number)
    plane = volume[0][k]
    if _is_prone(layout):
        plane = plane[::-1, ::-1]
    stored = np.ascontiguousarray(plane - np.int16(INTERCEPT_HU), dtype="<i2")
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    return ds


def _is_prone(layout: Layout) -> bool:
    return layout.position in (PatientPosition.HEAD_FIRST_PRONE, PatientPosition.FEET_FIRST_PRONE)


def _plane(grid: Grid, k: int, layout: Layout) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return row and column direction, and the centre of the first pixel, of slice `k`."""
    turn = -1.0 if _is_prone(layout) else 1.0
    tilt = np.radians(layout.gantry_tilt_degrees)
    along_rows = np.array([turn, 0.0, 0.0])
    along_columns = np.array([0.0, turn * np.cos(tilt), turn * np.sin(tilt)])
    origin = np.array(grid.origin_mm, float)
    origin[2] += grid.spacing_mm[2] * k
    if layout.gap is not None and k > layout.gap[0]:
        origin[2] += layout.gap[1]
    if _is_prone(layout):
        # The first pixel is the plain image's last one.
        reach = [(grid.shape[2 - a] - 1) * grid.spacing_mm[a] for a in (0, 1)]
        origin -= along_rows * reach[0] + along_columns * reach[1]
    return np.stack([along_rows, along_columns]), origin
