"""Sources of every geometry that results are written for, by name."""

from collections.abc import Callable

from pydicom.dataset import Dataset

from tests.builders.dicom import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    PRONE,
    SAGITTAL,
    ct_series,
    enhanced_ct,
    radiograph,
)

SERIES: dict[str, Callable[[], list[Dataset]]] = {
    "axial": lambda: ct_series(orientation=AXIAL),
    "feet first": lambda: ct_series(orientation=AXIAL, step_mm=(0.0, 0.0, -2.5)),
    "coronal": lambda: ct_series(orientation=CORONAL),
    "sagittal": lambda: ct_series(orientation=SAGITTAL),
    "prone": lambda: ct_series(orientation=PRONE),
    "oblique": lambda: ct_series(orientation=OBLIQUE),
    "gantry tilt": lambda: ct_series(orientation=AXIAL, step_mm=(0.0, 0.655, 2.5)),
    "gapped": lambda: [i for k, i in enumerate(ct_series(slices=14)) if k not in (4, 5)],
    "enhanced": lambda: enhanced_ct(order=[3, 1, 0, 2, 4, 5, 9, 7, 8, 6]),
    "odd size": lambda: ct_series(rows=37, columns=29),
    "lossy": lambda: ct_series(
        LossyImageCompression="01",
        LossyImageCompressionRatio="9.5",
        LossyImageCompressionMethod="ISO_10918_1",
    ),
    "bare patient": lambda: ct_series(AccessionNumber="", PatientSex="", StudyID="", StudyTime=""),
    "long uids": lambda: ct_series(StudyInstanceUID="1." + "2" * 62),
    "chinese patient": lambda: ct_series(PatientName="Wang^XiaoDong=王^小东"),
}
RADIOGRAPHS: dict[str, Callable[[], list[Dataset]]] = {
    "digital radiograph": radiograph,
    "inverse radiograph": lambda: radiograph(PhotometricInterpretation="MONOCHROME1"),
    "computed radiograph": lambda: radiograph(Modality="CR"),
}
