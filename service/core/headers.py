"""The header of one instance: what worklist, eligibility, volume and results need, read once.

An instance's bytes are parsed at receipt; afterwards everybody works on these values. Lengths
are in millimetres, coordinates in the patient's LPS system, angles in degrees.
"""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

Triple = tuple[float, float, float]
Sextuple = tuple[float, float, float, float, float, float]


class FrameHeader(BaseModel):
    """Geometry and rescale of one frame of an enhanced multi-frame instance (PS3.3 C.7.6.16)."""

    model_config = ConfigDict(frozen=True)

    image_position_mm: Triple | None = None
    image_orientation: Sextuple | None = None
    row_spacing_mm: float | None = None
    column_spacing_mm: float | None = None
    slice_thickness_mm: float | None = None
    rescale_slope: float | None = None
    rescale_intercept: float | None = None


class InstanceHeader(BaseModel):
    """What the product knows of an instance without opening its file.

    ``row_spacing_mm`` is the distance between the centres of adjacent rows, the first value of
    Pixel Spacing (0028,0030). ``pixel_data_offset`` and ``pixel_data_length`` point at the value
    of Pixel Data inside the archived file: native frames, or all fragments from the offset table
    to the last byte before the sequence delimiter. Both are None in a deflated data set.
    """

    model_config = ConfigDict(frozen=True)

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str = ""
    frame_of_reference_uid: str | None = None
    instance_number: int | None = None
    acquisition_number: int | None = None
    series_number: int | None = None
    series_description: str = ""
    protocol_name: str = ""
    body_part_examined: str = ""
    laterality: str = ""
    view_position: str = ""
    patient_position: str = ""
    patient_orientation: tuple[str, ...] = ()
    image_type: tuple[str, ...] = ()
    convolution_kernel: tuple[str, ...] = ()
    contrast_agent: str = ""
    patient_age_years: float | None = None
    manufacturer: str = ""
    manufacturer_model_name: str = ""
    software_versions: str = ""
    burned_in_annotation: str = ""
    lossy_image_compression: str = ""

    photometric_interpretation: str = ""
    presentation_intent_type: str = ""
    presentation_lut_shape: str = ""
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int = 1
    samples_per_pixel: int = 1
    bits_allocated: int | None = None
    bits_stored: int | None = None
    high_bit: int | None = None
    pixel_representation: int | None = None
    pixel_padding_value: int | None = None
    pixel_padding_range_limit: int | None = None
    rescale_slope: float | None = None
    rescale_intercept: float | None = None
    rescale_type: str = ""
    window_center: float | None = None
    window_width: float | None = None
    has_modality_lut: bool = False

    image_position_mm: Triple | None = None
    image_orientation: Sextuple | None = None
    row_spacing_mm: float | None = None
    column_spacing_mm: float | None = None
    imager_row_spacing_mm: float | None = None
    imager_column_spacing_mm: float | None = None
    slice_thickness_mm: float | None = None
    spacing_between_slices_mm: float | None = None
    gantry_tilt_degrees: float | None = None

    acquisition_date: str = ""
    acquisition_time: str = ""
    content_date: str = ""
    content_time: str = ""

    frames: tuple[FrameHeader, ...] = ()
    pixel_data_offset: int | None = None
    pixel_data_length: int | None = None

    @property
    def has_pixels(self) -> bool:
        """Whether the instance is an image with rows and columns."""
        return self.rows is not None and self.columns is not None


@dataclass(frozen=True)
class SourceFrame:
    """One image plane that was analysed: an instance and a frame of it, counted from 1."""

    instance: InstanceHeader
    frame_number: int = 1

    @property
    def geometry(self) -> FrameHeader:
        """Plane of this frame, whether the instance is single- or multi-frame."""
        if self.instance.frames:
            return self.instance.frames[self.frame_number - 1]
        return FrameHeader(
            image_position_mm=self.instance.image_position_mm,
            image_orientation=self.instance.image_orientation,
            row_spacing_mm=self.instance.row_spacing_mm,
            column_spacing_mm=self.instance.column_spacing_mm,
            slice_thickness_mm=self.instance.slice_thickness_mm,
            rescale_slope=self.instance.rescale_slope,
            rescale_intercept=self.instance.rescale_intercept,
        )
