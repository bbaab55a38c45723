"""Coded concepts that results are written with: one constant each, none of our own making.

SCT is SNOMED CT, DCM the DICOM controlled terminology (PS3.16 Annex D), UCUM units of measure,
LN LOINC, UMLS and RFC5646 as PS3.16 section 8 names them. Classes of a model and their sites are
coded in its manifest.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from service.core.findings import Code, Qualifier


def _dcm(value: str, meaning: str) -> Code:
    return Code(value=value, scheme="DCM", meaning=meaning)


def _sct(value: str, meaning: str) -> Code:
    return Code(value=value, scheme="SCT", meaning=meaning)


def _ucum(value: str, meaning: str) -> Code:
    return Code(value=value, scheme="UCUM", meaning=meaning)


def _loinc(value: str, meaning: str) -> Code:
    return Code(value=value, scheme="LN", meaning=meaning)


# The document: PS3.16 TID 1500, 1204, 1001, 1004, 1600.
IMAGING_MEASUREMENT_REPORT: Final = _dcm("126000", "Imaging Measurement Report")
LANGUAGE: Final = _dcm("121049", "Language of Content Item and Descendants")
ENGLISH: Final = Code(value="en-US", scheme="RFC5646", meaning="English (United States)")
OBSERVER_TYPE: Final = _dcm("121005", "Observer Type")
DEVICE: Final = _dcm("121007", "Device")
PERSON: Final = _dcm("121006", "Person")
PERSON_OBSERVER_NAME: Final = _dcm("121008", "Person Observer Name")
DEVICE_OBSERVER_UID: Final = _dcm("121012", "Device Observer UID")
DEVICE_OBSERVER_NAME: Final = _dcm("121013", "Device Observer Name")
DEVICE_OBSERVER_MANUFACTURER: Final = _dcm("121014", "Device Observer Manufacturer")
DEVICE_OBSERVER_MODEL_NAME: Final = _dcm("121015", "Device Observer Model Name")
DEVICE_OBSERVER_SERIAL_NUMBER: Final = _dcm("121016", "Device Observer Serial Number")
PROCEDURE_REPORTED: Final = _dcm("121058", "Procedure reported")
IMAGE_LIBRARY: Final = _dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP: Final = _dcm("126200", "Image Library Group")
MODALITY: Final = _dcm("121139", "Modality")
STUDY_DATE: Final = _dcm("111060", "Study Date")
IMAGING_MEASUREMENTS: Final = _dcm("126010", "Imaging Measurements")
QUALITATIVE_EVALUATIONS: Final = Code(
    value="C0034375", scheme="UMLS", meaning="Qualitative Evaluations"
)
COMMENT: Final = _dcm("121106", "Comment")

# One finding: TID 1410, 1411, 1501, 4019.
MEASUREMENT_GROUP: Final = _dcm("125007", "Measurement Group")
TRACKING_IDENTIFIER: Final = _dcm("112039", "Tracking Identifier")
TRACKING_UNIQUE_IDENTIFIER: Final = _dcm("112040", "Tracking Unique Identifier")
FINDING: Final = _dcm("121071", "Finding")
FINDING_SITE: Final = _sct("363698007", "Finding Site")
LATERALITY: Final = _sct("272741003", "Laterality")
RIGHT: Final = _sct("24028007", "Right")
LEFT: Final = _sct("7771000", "Left")
BILATERAL: Final = _sct("51440002", "Bilateral")
ALGORITHM_NAME: Final = _dcm("111001", "Algorithm Name")
ALGORITHM_VERSION: Final = _dcm("111003", "Algorithm Version")
ALGORITHM_PARAMETERS: Final = _dcm("111002", "Algorithm Parameters")
ALGORITHM_MANUFACTURER: Final = _dcm("122405", "Algorithm Manufacturer")
ALGORITHM_FAMILY: Final = _dcm("111000", "Algorithm Family")
ARTIFICIAL_INTELLIGENCE: Final = _dcm("123110", "Artificial Intelligence")
SOURCE: Final = _sct("260753009", "Source")
SOURCE_OF_MEASUREMENT: Final = _dcm("121112", "Source of Measurement")
IMAGE_REGION: Final = _dcm("111030", "Image Region")
REFERENCED_SEGMENT: Final = _dcm("121191", "Referenced Segment")
SOURCE_IMAGE_FOR_SEGMENTATION: Final = _dcm("121233", "Source image for segmentation")

# What a device says of its own certainty, and whether the thing is there.
CERTAINTY_OF_FINDING: Final = _dcm("111012", "Certainty of Finding")
PROBABILITY_OF_CANCER: Final = _dcm("111047", "Probability of cancer")
PRESENCE_OF_PROPERTY: Final = _dcm("121052", "Presence of property")
PRESENCE: Final[Mapping[Qualifier, Code]] = MappingProxyType(
    {
        Qualifier.PRESENT: _dcm("121053", "Present"),
        Qualifier.INDETERMINATE: _dcm("121059", "Presence Undetermined"),
        Qualifier.ABSENT: _dcm("121054", "Absent"),
    }
)

# The study as a whole: CID 6047, CID 6042, and why it was not analysed, CID 9300 and 9303.
PROCESSING_SUMMARY: Final = _dcm("111017", "CAD Processing and Findings Summary")
SUCCEEDED_WITH_FINDINGS: Final = _dcm("111242", "All algorithms succeeded; with findings")
SUCCEEDED_WITHOUT_FINDINGS: Final = _dcm("111241", "All algorithms succeeded; without findings")
NOTHING_SUCCEEDED: Final = _dcm("111245", "No algorithms succeeded; without findings")
SUMMARY_OF_DETECTIONS: Final = _dcm("111064", "Summary of Detections")
NOT_ATTEMPTED: Final = _dcm("111225", "Not Attempted")
OBJECTS_INCORRECTLY_FORMATTED: Final = _dcm("110521", "Objects incorrectly formatted")
OBJECT_TYPES_NOT_SUPPORTED: Final = _dcm("110522", "Object Types not supported")
OBJECT_SET_INCOMPLETE: Final = _dcm("110523", "Object Set incomplete")
INSUFFICIENT_QUALITY: Final = _dcm("110531", "Insufficient quality for interpretation")
UNSPECIFIED_REASON: Final = _dcm("110513", "Discontinued for unspecified reason")

DIAGNOSTIC_IMAGING_REPORT: Final = _loinc("18748-4", "Diagnostic Imaging Report")

# Key objects, TID 2010 and CID 7010; the last four withdraw what they list (IHE IOCM).
OF_INTEREST: Final = _dcm("113000", "Of Interest")
KEY_OBJECT_DESCRIPTION: Final = _dcm("113012", "Key Object Description")
REJECTED_FOR_QUALITY: Final = _dcm("113001", "Rejected for Quality Reasons")
REJECTED_FOR_PATIENT_SAFETY: Final = _dcm("113037", "Rejected for Patient Safety Reasons")
INCORRECT_WORKLIST_ENTRY: Final = _dcm("113038", "Incorrect Modality Worklist Entry")
RETENTION_EXPIRED: Final = _dcm("113039", "Data Retention Policy Expired")

# Change over time: TID 1502; CID 6134 and, for what is new, CID 6002.
TIME_POINT: Final = Code(value="C2348792", scheme="UMLS", meaning="Time Point")
QUALITATIVE_DIFFERENCE: Final = _dcm("111049", "Qualitative Difference")
NEW_FINDING: Final = _sct("129721008", "New finding")
INCREASE_IN_SIZE: Final = _sct("15454001", "Increase in size")
DECREASE_IN_SIZE: Final = _sct("19776001", "Decrease in size")
NO_SIGNIFICANT_CHANGE: Final = _sct("129723006", "No significant changes in the finding")

# Measurements. OHIF knows the two axes by exactly these meanings.
LONG_AXIS: Final = _sct("103339001", "Long Axis")
SHORT_AXIS: Final = _sct("103340004", "Short Axis")
VOLUME: Final = _sct("118565006", "Volume")
AREA: Final = _sct("42798000", "Area")
DIAMETER: Final = _sct("81827009", "Diameter")
MAXIMUM_3D_DIAMETER: Final = Code(
    value="L0JK", scheme="IBSI", meaning="Maximum 3D Diameter of a Mesh"
)
MEAN_ATTENUATION_COEFFICIENT: Final = _dcm("112181", "Mean Attenuation Coefficient")
SD_OF_ATTENUATION_COEFFICIENT: Final = _dcm(
    "112183", "Standard Deviation of Attenuation Coefficient"
)

MILLIMETER: Final = _ucum("mm", "mm")
SQUARE_MILLIMETER: Final = _ucum("mm2", "square millimeter")
CUBIC_MILLIMETER: Final = _ucum("mm3", "cubic millimeter")
CUBIC_CENTIMETER: Final = _ucum("cm3", "cubic centimeter")
HOUNSFIELD_UNIT: Final = _ucum("[hnsf'U]", "Hounsfield unit")
PERCENT: Final = _ucum("%", "Percent")
NO_UNITS: Final = _ucum("1", "no units")
DAY: Final = _ucum("d", "day")

# The name under which a finding carries a measurement, where it brings no code of its own.
MEASUREMENTS: Final[Mapping[str, Code]] = MappingProxyType(
    {
        "long_axis": LONG_AXIS,
        "short_axis": SHORT_AXIS,
        "volume": VOLUME,
        "diameter": DIAMETER,
        "maximum_3d_diameter": MAXIMUM_3D_DIAMETER,
        "area": AREA,
        "mean_hu": MEAN_ATTENUATION_COEFFICIENT,
        "sd_hu": SD_OF_ATTENUATION_COEFFICIENT,
    }
)

# How units are written in findings, beside their UCUM form.
UNITS: Final[Mapping[str, Code]] = MappingProxyType(
    {
        "mm": MILLIMETER,
        "mm2": SQUARE_MILLIMETER,
        "mm3": CUBIC_MILLIMETER,
        "cm3": CUBIC_CENTIMETER,
        "HU": HOUNSFIELD_UNIT,
        "[hnsf'U]": HOUNSFIELD_UNIT,
        "%": PERCENT,
        "1": NO_UNITS,
        "": NO_UNITS,
        "d": DAY,
    }
)

# Segments and what they show: CID 7150, CID 7151.
MORPHOLOGICALLY_ABNORMAL_STRUCTURE: Final = _sct("49755003", "Morphologically Abnormal Structure")
ANATOMICAL_STRUCTURE: Final = _sct("91723000", "Anatomical Structure")
BACKGROUND: Final = _dcm("125040", "Background")
NODULE: Final = _sct("27925004", "Nodule")
LUNG: Final = _sct("39607008", "Lung")
LIVER: Final = _sct("10200004", "Liver")

# Purposes and derivations in images: CID 7005, CID 7202, CID 7203.
ACQUISITION_EQUIPMENT: Final = _dcm("109101", "Acquisition Equipment")
PROCESSING_EQUIPMENT: Final = _dcm("109102", "Processing Equipment")
SEGMENTATION: Final = _dcm("113076", "Segmentation")
SOURCE_IMAGE_FOR_PROCESSING: Final = _dcm("121322", "Source image for image processing operation")

# What a map shows: CID 7180, TID 1006.
QUANTITY: Final = _sct("246205007", "Quantity")
CLASS_ACTIVATION: Final = _dcm("130402", "Class activation")

# Modality as a coded value (CID 29) and the procedure of last resort (CID 100).
MODALITIES: Final[Mapping[str, Code]] = MappingProxyType(
    {
        "CT": _dcm("CT", "Computed Tomography"),
        "CR": _dcm("CR", "Computed Radiography"),
        "DX": _dcm("DX", "Digital Radiography"),
        "MG": _dcm("MG", "Mammography"),
        "MR": _dcm("MR", "Magnetic Resonance"),
    }
)
PROCEDURES: Final[Mapping[str, Code]] = MappingProxyType(
    {
        "CT": _loinc("25045-6", "CT unspecified body region"),
        "CR": _loinc("43468-8", "XR unspecified body region"),
        "DX": _loinc("43468-8", "XR unspecified body region"),
        "MR": _loinc("25056-3", "MRI unspecified body region"),
    }
)
IMAGING_PROCEDURE: Final = _sct("363679005", "Imaging procedure")
