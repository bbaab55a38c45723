"""Headers of pydicom data sets: a second reading, to compare the product's own with."""

from collections.abc import Iterable
from typing import Any

from pydicom.dataset import Dataset

from service.core.headers import FrameHeader, InstanceHeader, Sextuple, Triple


def read_header(
    dataset: Dataset,
    *,
    transfer_syntax_uid: str,
    pixel_data_offset: int | None = None,
    pixel_data_length: int | None = None,
) -> InstanceHeader:
    """Read the header values of a data set, leaving out what it does not hold or cannot mean.

    Values that do not parse (an empty or garbled number) become None: whether an instance can be
    analysed is decided later and with a reason; receiving it must not depend on that. The four
    UIDs are taken as they stand; `intake` has checked them before.
    """
    spacing = _numbers(dataset, "PixelSpacing", 2)
    imager_spacing = _numbers(dataset, "ImagerPixelSpacing", 2)
    position = _numbers(dataset, "ImagePositionPatient", 3)
    orientation = _numbers(dataset, "ImageOrientationPatient", 6)
    return InstanceHeader(
        sop_class_uid=_text(dataset, "SOPClassUID"),
        sop_instance_uid=_text(dataset, "SOPInstanceUID"),
        study_instance_uid=_text(dataset, "StudyInstanceUID"),
        series_instance_uid=_text(dataset, "SeriesInstanceUID"),
        transfer_syntax_uid=transfer_syntax_uid,
        modality=_text(dataset, "Modality"),
        frame_of_reference_uid=_text(dataset, "FrameOfReferenceUID") or None,
        instance_number=_integer(dataset, "InstanceNumber"),
        acquisition_number=_integer(dataset, "AcquisitionNumber"),
        series_number=_integer(dataset, "SeriesNumber"),
        series_description=_text(dataset, "SeriesDescription"),
        protocol_name=_text(dataset, "ProtocolName"),
        body_part_examined=_text(dataset, "BodyPartExamined"),
        laterality=_text(dataset, "ImageLaterality") or _text(dataset, "Laterality"),
        view_position=_text(dataset, "ViewPosition"),
        patient_position=_text(dataset, "PatientPosition"),
        patient_orientation=_texts(dataset, "PatientOrientation"),
        patient_age_years=_age_years(_text(dataset, "PatientAge")),
        image_type=_texts(dataset, "ImageType"),
        convolution_kernel=_texts(dataset, "ConvolutionKernel"),
        contrast_agent=_text(dataset, "ContrastBolusAgent"),
        manufacturer=_text(dataset, "Manufacturer"),
        manufacturer_model_name=_text(dataset, "ManufacturerModelName"),
        software_versions="\\".join(_texts(dataset, "SoftwareVersions")),
        burned_in_annotation=_text(dataset, "BurnedInAnnotation"),
        lossy_image_compression=_text(dataset, "LossyImageCompression"),
        photometric_interpretation=_text(dataset, "PhotometricInterpretation"),
        presentation_intent_type=_text(dataset, "PresentationIntentType"),
        presentation_lut_shape=_text(dataset, "PresentationLUTShape"),
        rows=_integer(dataset, "Rows"),
        columns=_integer(dataset, "Columns"),
        number_of_frames=_integer(dataset, "NumberOfFrames") or 1,
        samples_per_pixel=_integer(dataset, "SamplesPerPixel") or 1,
        bits_allocated=_integer(dataset, "BitsAllocated"),
        bits_stored=_integer(dataset, "BitsStored"),
        high_bit=_integer(dataset, "HighBit"),
        pixel_representation=_integer(dataset, "PixelRepresentation"),
        pixel_padding_value=_integer(dataset, "PixelPaddingValue"),
        pixel_padding_range_limit=_integer(dataset, "PixelPaddingRangeLimit"),
        rescale_slope=_number(dataset, "RescaleSlope"),
        rescale_intercept=_number(dataset, "RescaleIntercept"),
        rescale_type=_text(dataset, "RescaleType"),
        window_center=_number(dataset, "WindowCenter"),
        window_width=_number(dataset, "WindowWidth"),
        has_modality_lut="ModalityLUTSequence" in dataset,
        image_position_mm=_triple(position),
        image_orientation=_sextuple(orientation),
        row_spacing_mm=spacing[0] if spacing else None,
        column_spacing_mm=spacing[1] if spacing else None,
        imager_row_spacing_mm=imager_spacing[0] if imager_spacing else None,
        imager_column_spacing_mm=imager_spacing[1] if imager_spacing else None,
        slice_thickness_mm=_number(dataset, "SliceThickness"),
        spacing_between_slices_mm=_number(dataset, "SpacingBetweenSlices"),
        gantry_tilt_degrees=_number(dataset, "GantryDetectorTilt"),
        acquisition_date=_text(dataset, "AcquisitionDate"),
        acquisition_time=_text(dataset, "AcquisitionTime"),
        content_date=_text(dataset, "ContentDate"),
        content_time=_text(dataset, "ContentTime"),
        frames=tuple(_frames(dataset)),
        pixel_data_offset=pixel_data_offset,
        pixel_data_length=pixel_data_length,
    )


def _frames(dataset: Dataset) -> Iterable[FrameHeader]:
    """Yield a header per frame of an enhanced instance, shared values filled in."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared_sequence = dataset.get("SharedFunctionalGroupsSequence") or []
    shared = shared_sequence[0] if len(shared_sequence) else Dataset()
    for frame in per_frame:
        position = _group(frame, shared, "PlanePositionSequence")
        orientation = _group(frame, shared, "PlaneOrientationSequence")
        measures = _group(frame, shared, "PixelMeasuresSequence")
        rescale = _group(frame, shared, "PixelValueTransformationSequence")
        spacing = _numbers(measures, "PixelSpacing", 2)
        yield FrameHeader(
            image_position_mm=_triple(_numbers(position, "ImagePositionPatient", 3)),
            image_orientation=_sextuple(_numbers(orientation, "ImageOrientationPatient", 6)),
            row_spacing_mm=spacing[0] if spacing else None,
            column_spacing_mm=spacing[1] if spacing else None,
            slice_thickness_mm=_number(measures, "SliceThickness"),
            rescale_slope=_number(rescale, "RescaleSlope"),
            rescale_intercept=_number(rescale, "RescaleIntercept"),
        )


def _group(frame: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """Return the functional group of a frame, or the one that all frames share."""
    for holder in (frame, shared):
        sequence = holder.get(keyword)
        if sequence:
            item: Dataset = sequence[0]
            return item
    return Dataset()


def _value(dataset: Dataset, keyword: str) -> Any:
    # pydicom parses values when they are first touched, so a garbled one raises here; which
    # exception depends on its VR.
    try:
        return dataset.get(keyword)
    except (ValueError, TypeError, OverflowError, AttributeError, NotImplementedError):
        return None


def _texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    value = _value(dataset, keyword)
    if value is None or value == "":
        return ()
    values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
    return tuple(str(item).strip() for item in values)


def _text(dataset: Dataset, keyword: str) -> str:
    values = _texts(dataset, keyword)
    return values[0] if values else ""


def _numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    value = _value(dataset, keyword)
    if value is None or isinstance(value, str) or not isinstance(value, Iterable):
        return None
    try:
        numbers = tuple(float(item) for item in value)
    except (TypeError, ValueError):
        return None
    finite = all(abs(number) < float("inf") for number in numbers)
    return numbers if len(numbers) == count and finite else None


def _number(dataset: Dataset, keyword: str) -> float | None:
    """Return the first value as a finite number (windows may be multi-valued)."""
    value = _value(dataset, keyword)
    if isinstance(value, Iterable) and not isinstance(value, str):
        value = next(iter(value), None)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None


def _integer(dataset: Dataset, keyword: str) -> int | None:
    number = _number(dataset, keyword)
    return None if number is None else int(number)


def _triple(values: tuple[float, ...] | None) -> Triple | None:
    return (values[0], values[1], values[2]) if values else None


def _sextuple(values: tuple[float, ...] | None) -> Sextuple | None:
    return (values[0], values[1], values[2], values[3], values[4], values[5]) if values else None


def _age_years(text: str) -> float | None:
    if len(text) != 4 or not text[:3].isdigit():
        return None
    parts = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}
    return int(text[:3]) / parts[text[3]] if text[3] in parts else None
