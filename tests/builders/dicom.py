"""Small synthetic DICOM instances: CT series, enhanced CT, radiographs.

Spacings are unequal and the orientation is oblique unless a test asks otherwise, so that a
swapped axis or a forgotten rotation shows. Patients are invented. Every keyword argument that
is not a parameter must be a DICOM keyword and is set on every instance.
"""

import copy
import io
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import ArrayLike, NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pydicom.valuerep import format_number_as_ds

from service.core.elements import PIXEL_DATA, Encoding, walk
from service.core.headers import InstanceHeader
from tests.builders.headers import read_header

Cosines = tuple[float, float, float, float, float, float]

AXIAL: Cosines = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL: Cosines = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL: Cosines = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
PRONE: Cosines = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def rotated(cosines: Cosines, *, about_x: float = 0.0, about_y: float = 0.0, about_z: float = 0.0):
    """Turn row and column direction about the patient's axes, in degrees."""
    turned = np.array(cosines).reshape(2, 3)
    for axis, angle in enumerate((about_x, about_y, about_z)):
        cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        first, second = ((1, 2), (2, 0), (0, 1))[axis]
        rotation = np.eye(3)
        rotation[first, first] = rotation[second, second] = cosine
        rotation[first, second], rotation[second, first] = -sine, sine
        turned = turned @ rotation.T
    return tuple(float(value) for value in turned.ravel())


OBLIQUE: Cosines = rotated(AXIAL, about_x=7.0, about_y=-4.0, about_z=3.0)


def uid(*names: object) -> str:
    """Return a UID that the same names always yield."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(map(str, names))).int}"


def pattern_hu(slices: int, rows: int, columns: int) -> NDArray[np.int16]:
    """Return smooth CT values that no flip or transposition maps onto themselves.

    Shape ``(slices, rows, columns)``, -1000 to 1000 HU.
    """
    k, i, j = np.meshgrid(
        np.linspace(0, 1, slices),
        np.linspace(0, 1, rows),
        np.linspace(0, 1, columns),
        indexing="ij",
    )
    body = ((i - 0.45) / 0.42) ** 2 + ((j - 0.55) / 0.38) ** 2 < 1
    inside = 30 + 400 * k + 250 * i * i + 120 * np.sin(5 * j)
    return np.where(body, inside, -1000 + 60 * j).round().astype(np.int16)


def ct_series(
    *,
    slices: int = 12,
    rows: int = 40,
    columns: int = 32,
    spacing_mm: tuple[float, float, float] = (2.5, 0.7, 0.8),
    origin_mm: tuple[float, float, float] = (-12.5, -31.25, -204.0),
    orientation: Cosines = OBLIQUE,
    step_mm: tuple[float, float, float] | None = None,
    hounsfield: ArrayLike | None = None,
    slope: float = 1.0,
    intercept: float = -1024.0,
    bits_stored: int = 16,
    signed: bool = False,
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
    name: str = "series",
    study: str = "study",
    **attributes: Any,
) -> list[Dataset]:
    """Return the instances of one CT series in order along the slice normal.

    ``spacing_mm`` is (between slices, between rows, between columns). ``step_mm`` is the vector
    from slice to slice; by default it follows the normal, another one makes a gantry tilt.
    ``hounsfield`` has shape (slices, rows, columns) and wins over the three sizes.
    """
    values = np.asarray(pattern_hu(slices, rows, columns) if hounsfield is None else hounsfield)
    stored = np.round((values - intercept) / slope).astype(np.int64)
    along = np.array(step_mm) if step_mm is not None else _normal(orientation) * spacing_mm[0]
    instances = []
    for index, frame in enumerate(stored):
        dataset = _instance(CTImageStorage, "CT", name, study, index)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.InstanceNumber = index + 1
        dataset.PatientPosition = "HFS"
        dataset.KVP = "120"
        dataset.AcquisitionNumber = 1
        dataset.FrameOfReferenceUID = uid(study, name, "frame of reference")
        dataset.PositionReferenceIndicator = ""
        dataset.ImagePositionPatient = _decimals(np.array(origin_mm) + index * along)
        dataset.ImageOrientationPatient = _decimals(orientation)
        dataset.PixelSpacing = _decimals(spacing_mm[1:])
        dataset.SliceThickness = _decimals([spacing_mm[0]])[0]
        dataset.RescaleSlope, dataset.RescaleIntercept = _decimals([slope, intercept])
        dataset.RescaleType = "HU"
        _set_pixels(dataset, frame, bits_stored=bits_stored, signed=signed)
        _set_attributes(dataset, attributes)
        instances.append(in_syntax(dataset, transfer_syntax_uid))
    return instances


def enhanced_ct(
    *,
    slices: int = 10,
    rows: int = 40,
    columns: int = 32,
    spacing_mm: tuple[float, float, float] = (2.5, 0.7, 0.8),
    origin_mm: tuple[float, float, float] = (-12.5, -31.25, -204.0),
    orientation: Cosines = OBLIQUE,
    order: Sequence[int] | None = None,
    hounsfield: ArrayLike | None = None,
    slope: float = 1.0,
    intercept: float = -1024.0,
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
    name: str = "enhanced",
    study: str = "study",
    **attributes: Any,
) -> list[Dataset]:
    """Return one enhanced multi-frame CT instance, in a list of one.

    ``order`` says which slice each frame holds; by default frames are in order along the normal.
    """
    values = np.asarray(pattern_hu(slices, rows, columns) if hounsfield is None else hounsfield)
    frames = list(range(len(values))) if order is None else list(order)
    stored = np.round((values[frames] - intercept) / slope).astype(np.int64)
    along = _normal(orientation) * spacing_mm[0]
    dataset = _instance(EnhancedCTImageStorage, "CT", name, study, 0)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.InstanceNumber = 1
    dataset.PatientPosition = "HFS"
    dataset.FrameOfReferenceUID = uid(study, name, "frame of reference")
    dataset.SharedFunctionalGroupsSequence = [_shared_groups(spacing_mm, orientation)]
    dataset.PerFrameFunctionalGroupsSequence = [
        _frame_groups(number, np.array(origin_mm) + index * along, slope, intercept)
        for number, index in enumerate(frames, start=1)
    ]
    _set_pixels(dataset, stored, bits_stored=16, signed=False)
    dataset.NumberOfFrames = len(frames)
    _set_attributes(dataset, attributes)
    return [in_syntax(dataset, transfer_syntax_uid)]


def radiograph(
    *,
    rows: int = 64,
    columns: int = 48,
    spacing_mm: tuple[float, float] | None = (0.3, 0.2),
    stored: ArrayLike | None = None,
    bits_stored: int = 12,
    photometric_interpretation: str = "MONOCHROME2",
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
    name: str = "radiograph",
    study: str = "study",
    **attributes: Any,
) -> list[Dataset]:
    """Return one frontal chest radiograph (DX, for presentation), in a list of one.

    ``stored`` holds the stored values, shape (rows, columns), as `photometric_interpretation`
    says; ``spacing_mm`` is the detector's (between rows, between columns).
    """
    if stored is None:
        ramp = pattern_hu(1, rows, columns)[0].astype(np.int64)
        stored = (ramp - ramp.min()) * ((1 << bits_stored) - 1) // (ramp.max() - ramp.min())
    dataset = _instance(DigitalXRayImageStorageForPresentation, "DX", name, study, 0)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.InstanceNumber = 1
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    dataset.ImageLaterality = "U"
    dataset.PatientOrientation = ["L", "F"]
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    inverse = photometric_interpretation == "MONOCHROME1"
    dataset.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    dataset.WindowCenter = str(1 << (bits_stored - 1))
    dataset.WindowWidth = str(1 << bits_stored)
    if spacing_mm is not None:
        dataset.ImagerPixelSpacing = _decimals(spacing_mm)
    _set_pixels(dataset, np.asarray(stored), bits_stored=bits_stored, signed=False)
    dataset.PhotometricInterpretation = photometric_interpretation
    _set_attributes(dataset, attributes)
    return [in_syntax(dataset, transfer_syntax_uid)]


def in_syntax(dataset: Dataset, transfer_syntax_uid: str) -> Dataset:
    """Return the data set with its pixels encoded in another transfer syntax.

    The data set given must be native little endian, as the builders make it.
    """
    dataset = copy.deepcopy(dataset)
    dataset.file_meta.TransferSyntaxUID = transfer_syntax_uid
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        frames = _native_frames(dataset)
        dataset.PixelData = encapsulate([_encoded(dataset, frame) for frame in frames])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    elif transfer_syntax_uid == ExplicitVRBigEndian and dataset.BitsAllocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    return dataset


def part10(dataset: Dataset) -> bytes:
    """Return the instance as the bytes of a DICOM file (PS3.10)."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write_series(instances: Sequence[Dataset], folder: Path) -> list[Path]:
    """Write each instance into the folder and return the paths in the same order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:04d}.dcm" for index in range(len(instances))]
    for path, instance in zip(paths, instances, strict=True):
        path.write_bytes(part10(instance))
    return paths


def header_of(path: Path) -> InstanceHeader:
    """Read the header of a file, with the place of native pixel data, as receipt does."""
    data = path.read_bytes()
    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
    meta = dataset.file_meta
    syntax = UID(meta.get("TransferSyntaxUID", ImplicitVRLittleEndian))
    place = None
    if syntax != DeflatedExplicitVRLittleEndian and "FileMetaInformationGroupLength" in meta:
        start = 144 + meta.FileMetaInformationGroupLength
        elements = walk(data, Encoding.of(syntax), start=start)
        place = next((element for element in elements if element.tag == PIXEL_DATA), None)
    return read_header(
        dataset,
        transfer_syntax_uid=str(syntax),
        pixel_data_offset=place.value_start if place else None,
        pixel_data_length=place.length if place else None,
    )


def _instance(sop_class_uid: str, modality: str, name: str, study: str, index: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = uid(study, name, index)
    dataset.StudyInstanceUID = uid(study)
    dataset.SeriesInstanceUID = uid(study, name)
    dataset.file_meta.MediaStorageSOPClassUID = sop_class_uid
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.Modality = modality
    dataset.PatientName = "Phantom^Paula"
    dataset.PatientID = "PHANTOM-1"
    dataset.PatientBirthDate = "19600102"
    dataset.PatientSex = "F"
    dataset.StudyID = "1"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = "20260301"
    dataset.ContentDate = "20260301"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = "101500"
    dataset.ContentTime = "101500"
    dataset.AccessionNumber = "ACC-1"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesNumber = 1
    dataset.Manufacturer = "Overread Phantoms"
    return dataset


def _set_pixels(
    dataset: Dataset, stored: NDArray[np.int64], *, bits_stored: int, signed: bool
) -> None:
    low = -(1 << (bits_stored - 1)) if signed else 0
    if stored.min() < low or stored.max() >= low + (1 << bits_stored):
        raise ValueError(f"values {stored.min()}..{stored.max()} do not fit {bits_stored} bits")
    allocated = 8 if bits_stored <= 8 else 16
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated = allocated
    dataset.BitsStored = bits_stored
    dataset.HighBit = bits_stored - 1
    dataset.PixelRepresentation = int(signed)
    pixels = (stored & ((1 << allocated) - 1)).astype(f"<u{allocated // 8}").tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    dataset["PixelData"].VR = "OW" if allocated == 16 else "OB"


def _native_frames(dataset: Dataset) -> NDArray[Any]:
    count = int(dataset.get("NumberOfFrames", 1))
    shape = (count, dataset.Rows, dataset.Columns)
    size = count * dataset.Rows * dataset.Columns
    kind = "i" if dataset.PixelRepresentation else "u"
    dtype = np.dtype(f"<{kind}{dataset.BitsAllocated // 8}")
    return np.frombuffer(dataset.PixelData, dtype, count=size).reshape(shape)


def _encoded(dataset: Dataset, frame: NDArray[Any]) -> bytes:
    """Encode one frame; JPEG and JPEG-LS carry signed values as bit patterns (PS3.5 8.2)."""
    syntax = dataset.file_meta.TransferSyntaxUID
    bits = int(dataset.BitsStored)
    pattern = frame.view(frame.dtype.str.replace("i", "u")) & ((1 << bits) - 1)
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        return bytes(
            imagecodecs.jpeg8_encode(pattern, lossless=True, predictor=1, bitspersample=bits)
        )
    if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        return bytes(imagecodecs.jpeg8_encode(pattern, level=98, bitspersample=bits))
    if syntax in (JPEGLSLossless, JPEGLSNearLossless):
        near = 2 if syntax == JPEGLSNearLossless else 0
        return bytes(imagecodecs.jpegls_encode(pattern, level=near))
    if syntax in (JPEG2000Lossless, JPEG2000):
        return bytes(
            imagecodecs.jpeg2k_encode(
                frame, codecformat="j2k", reversible=True, level=0, bitspersample=bits
            )
        )
    if syntax == HTJ2KLossless:
        return bytes(imagecodecs.htj2k_encode(frame, reversible=True))
    if syntax == RLELossless:
        return _rle(frame)
    raise ValueError(f"no encoder for {syntax.name}")


def _rle(frame: NDArray[Any]) -> bytes:
    """Encode a frame as RLE Lossless (PS3.5 Annex G), most significant byte plane first."""
    planes = np.ascontiguousarray(frame).view(np.uint8).reshape(*frame.shape, -1)[..., ::-1]
    segments = []
    for plane in range(planes.shape[-1]):
        segment = b"".join(_packbits(row.tobytes()) for row in planes[..., plane])
        segments.append(segment + b"\0" * (len(segment) % 2))
    header = [len(segments)] + [0] * 15
    at = 64
    for index, segment in enumerate(segments, start=1):
        header[index], at = at, at + len(segment)
    return np.array(header, "<u4").tobytes() + b"".join(segments)


def _packbits(row: bytes) -> bytes:
    encoded = bytearray()
    at = 0
    while at < len(row):
        run = 1
        while run < 128 and at + run < len(row) and row[at + run] == row[at]:
            run += 1
        if run > 1:
            encoded += bytes([257 - run, row[at]])
        else:
            while run < 128 and at + run < len(row) and row[at + run] != row[at + run - 1]:
                run += 1
            encoded += bytes([run - 1]) + row[at : at + run]
        at += run
    return bytes(encoded)


def _shared_groups(spacing_mm: Sequence[float], orientation: Cosines) -> Dataset:
    measures, plane, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = _decimals(spacing_mm[1:])
    measures.SliceThickness = _decimals(spacing_mm[:1])[0]
    plane.ImageOrientationPatient = _decimals(orientation)
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [plane]
    return shared


def _frame_groups(number: int, position_mm: ArrayLike, slope: float, intercept: float) -> Dataset:
    position, content, rescale, groups = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = _decimals(position_mm)
    content.FrameAcquisitionNumber = 1
    content.DimensionIndexValues = [1, number]
    rescale.RescaleSlope, rescale.RescaleIntercept = _decimals([slope, intercept])
    rescale.RescaleType = "HU"
    groups.PlanePositionSequence = [position]
    groups.FrameContentSequence = [content]
    groups.PixelValueTransformationSequence = [rescale]
    return groups


def _set_attributes(dataset: Dataset, attributes: dict[str, Any]) -> None:
    for keyword, value in attributes.items():
        if tag_for_keyword(keyword) is None:
            raise TypeError(f"{keyword} is neither a parameter nor a DICOM keyword")
        setattr(dataset, keyword, value)


def _normal(orientation: Cosines) -> NDArray[np.float64]:
    return np.cross(orientation[:3], orientation[3:])


def _decimals(values: ArrayLike) -> list[str]:
    """Return decimal strings of at most 16 characters, the most that a DS may have."""
    return [format_number_as_ds(float(value)) for value in np.atleast_1d(values)]
