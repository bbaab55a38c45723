"""Write a synthetic radiograph as a DICOM instance, digital (DX) or computed (CR).

References
----------
DICOM PS3.3 A.26, Digital X-Ray Image IOD; A.2, Computed Radiography Image IOD.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)
from pydicom.valuerep import format_number_as_ds

from models.phantoms.ct_dicom import IMPLEMENTATION_CLASS_UID, Description, derive
from models.phantoms.radiograph import Exposure

_BITS = 12
_LARGEST = 2**_BITS - 1
_CHEST = ("43799004", "Chest")  # SNOMED CT, thorax


@dataclass(frozen=True)
class Detector:
    """How the image is kept: which IOD, and whether small values are bright."""

    computed: bool = False
    monochrome1: bool = False


def write_radiograph(
    image: NDArray[np.floating],
    exposure: Exposure,
    description: Description,
    path: Path,
    *,
    detector: Detector = Detector(),
    number: int = 1,
) -> Path:
    """Write one image, values 0 to 1 with bones bright, as the series' instance `number`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    radiograph_instance(image, exposure, description, detector=detector, number=number).save_as(
        path, enforce_file_format=True
    )
    return path


def radiograph_instance(
    image: NDArray[np.floating],
    exposure: Exposure,
    description: Description,
    *,
    detector: Detector = Detector(),
    number: int = 1,
) -> Dataset:
    """Return the instance that `write_radiograph` writes."""
    ds = Dataset()
    _set_patient_and_study(ds, description)
    _set_series(ds, description, detector)
    ds.SOPInstanceUID = derive(description.series_instance_uid, "image", str(number))
    ds.InstanceNumber = str(number)
    _set_exposure(ds, exposure, detector)
    _set_pixels(ds, image, detector)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    return ds


def _set_patient_and_study(ds: Dataset, about: Description) -> None:
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName, ds.PatientID = about.patient_name, about.patient_id
    ds.PatientBirthDate, ds.PatientSex = about.patient_birth_date, about.patient_sex
    ds.StudyInstanceUID, ds.StudyID = about.study_instance_uid, "1"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = about.study_date
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = about.study_time
    ds.AccessionNumber, ds.ReferringPhysicianName = about.accession_number, ""
    ds.StudyDescription, ds.InstitutionName = about.study_description, about.institution


def _set_series(ds: Dataset, about: Description, detector: Detector) -> None:
    ds.SeriesInstanceUID = about.series_instance_uid
    ds.SeriesNumber, ds.AcquisitionNumber = str(about.series_number), "1"
    ds.SeriesDescription = about.series_description
    ds.Manufacturer, ds.ManufacturerModelName = "overread phantoms", "Synthetic radiograph"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1"
    ds.BodyPartExamined = about.body_part
    if detector.computed:
        ds.SOPClassUID = ComputedRadiographyImageStorage
        ds.Modality = "CR"
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
        return
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.Modality = "DX"
    ds.AcquisitionContextSequence = []
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = [_coded(*_CHEST)]


def _set_exposure(ds: Dataset, exposure: Exposure, detector: Detector) -> None:
    ds.ViewPosition = exposure.view
    spacing = format_number_as_ds(float(exposure.pixel_mm))
    ds.ImagerPixelSpacing = [spacing, spacing]
    ds.DistanceSourceToDetector = format_number_as_ds(float(exposure.distance_mm))
    ds.PatientOrientation = ["L", "F"]
    ds.KVP = "125"
    if not detector.computed:
        ds.DetectorType = "DIRECT"
        ds.PositionerType = "NONE"


def _set_pixels(ds: Dataset, image: NDArray[np.floating], detector: Detector) -> None:
    values = np.clip(np.asarray(image, dtype=np.float64), 0, 1)
    stored = np.round((1 - values if detector.monochrome1 else values) * _LARGEST)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME1" if detector.monochrome1 else "MONOCHROME2"
    ds.Rows, ds.Columns = image.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, _BITS, _BITS - 1
    ds.PixelRepresentation = 0
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    ds.WindowCenter, ds.WindowWidth = str((_LARGEST + 1) // 2), str(_LARGEST + 1)
    if not detector.computed:
        ds.PixelIntensityRelationship = "LOG"
        ds.PixelIntensityRelationshipSign = 1 if detector.monochrome1 else -1
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
        ds.PresentationLUTShape = "INVERSE" if detector.monochrome1 else "IDENTITY"
    ds.PixelData = np.ascontiguousarray(stored.astype("<u2")).tobytes()
    ds["PixelData"].VR = "OW"


def _coded(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item
