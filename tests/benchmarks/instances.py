"""The instances that receivers are measured with: CT slices and small objects, new ones each time.

Every round sends instances that nobody has seen, as patients come in; only UIDs differ, at the same
length, so that all receivers get the same bytes.
"""

import uuid

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as DicomSequence

from tests.benchmarks.sending import Message
from tests.builders.dicom import AXIAL, ct_series

_UID_LENGTH = 44


def ct_slices(count: int) -> list[Message]:
    """Return a new study of one CT series: 512 x 512 pixels, 16 bits, a scanner's header."""
    return _study(count, rows=512, columns=512, repeated=8)


def small_instances(count: int) -> list[Message]:
    """Return a new study of instances of about 10 KB."""
    return _study(count, rows=64, columns=64, repeated=1)


def _study(count: int, *, rows: int, columns: int, repeated: int) -> list[Message]:
    study, series = _uid(), _uid()
    noise = np.random.default_rng(1)
    pixels = [
        noise.integers(0, 4096, (rows, columns), np.uint16).tobytes() for _ in range(repeated)
    ]
    template = ct_series(slices=1, rows=8, columns=8, orientation=AXIAL, bits_stored=12)[0]
    template.Rows, template.Columns = rows, columns
    template.StudyInstanceUID, template.SeriesInstanceUID = study, series
    _dress(template)
    return [_message(template, number, pixels[number % repeated]) for number in range(count)]


def _message(template: Dataset, number: int, pixels: bytes) -> Message:
    uid = _uid()
    template.SOPInstanceUID = uid
    template.InstanceNumber = number + 1
    template.ImagePositionPatient = [-180.5, -201.25, round(-312.5 + 1.25 * number, 2)]
    template.SliceLocation = round(-312.5 + 1.25 * number, 2)
    template.PixelData = b"\0\0"
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, template)
    header = buffer.getvalue()[:-6] + len(pixels).to_bytes(4, "little")
    return Message(str(template.SOPClassUID), uid, (header, pixels))


def _dress(dataset: Dataset) -> None:
    """Add what a scanner writes besides: about a hundred elements, sequences, a private block."""
    texts = {
        "InstitutionName": "General Hospital", "StationName": "CT01", "Manufacturer": "ACME",
        "ManufacturerModelName": "Spiral 64", "SoftwareVersions": "syn 1.2", "StudyTime": "101112",
        "SeriesTime": "101201.5", "AcquisitionTime": "101203.25", "ContentTime": "101204.125",
        "StudyDescription": "CT chest", "SeriesDescription": "Lung 1.25", "StudyID": "77",
        "ProtocolName": "Chest routine", "BodyPartExamined": "CHEST", "ScanOptions": "HELICAL MODE",
        "ConvolutionKernel": "LUNG", "FilterType": "BODY FILTER", "ReferringPhysicianName": "Doe^J",
        "OperatorsName": "MTR", "PatientAge": "061Y", "DeviceSerialNumber": "0815",
        "PatientComments": "none", "AccessionNumber": "A4711", "LossyImageCompression": "00",
    }  # fmt: skip
    numbers = {
        "DataCollectionDiameter": 500, "ReconstructionDiameter": 360, "GantryDetectorTilt": 0,
        "DistanceSourceToDetector": 949.07, "DistanceSourceToPatient": 541, "TableHeight": 157.2,
        "ExposureTime": 500, "XRayTubeCurrent": 300, "Exposure": 150, "GeneratorPower": 36000,
        "FocalSpots": 0.7, "SeriesNumber": 3, "WindowCenter": -600, "WindowWidth": 1500,
        "SpiralPitchFactor": 0.98, "TableSpeed": 39.37, "TableFeedPerRotation": 19.7,
        "PatientWeight": 77, "PatientSize": 1.75,
    }  # fmt: skip
    for keyword, value in {**texts, **numbers}.items():
        setattr(dataset, keyword, value)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99ACME", "routine chest"
    reference = Dataset()
    reference.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.3"
    reference.ReferencedSOPInstanceUID = "1.2.840.113619.2.55.3.1"
    dataset.ProcedureCodeSequence = DicomSequence([code])
    dataset.ReferencedPerformedProcedureStepSequence = DicomSequence([reference])
    dataset.SourceImageSequence = DicomSequence([reference])
    for group in (0x0009, 0x0019, 0x0021, 0x0027, 0x0043):
        block = dataset.private_block(group, "ACME_CT_01", create=True)
        for element in range(8):
            block.add_new(element, "DS" if element % 2 else "SH", str(group * 10 + element))


def _uid() -> str:
    """Return a new UID of always the same length."""
    return f"2.25.{uuid.uuid4().int % 10**39:039d}".replace("2.25.0", "2.25.9")[:_UID_LENGTH]
