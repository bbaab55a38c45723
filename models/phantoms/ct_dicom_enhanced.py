"""Write a synthetic CT as one enhanced, multi-frame instance.

References
----------
DICOM PS3.3 A.38, Enhanced CT Image IOD; C.7.6.16, Multi-frame Functional Groups; C.8.15, CT macros.
"""

from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from models.phantoms.ct_dicom import (
    INTERCEPT_HU,
    PLAIN,
    Description,
    Layout,
    Voxels,
    ct_instances,
    derive,
)
from models.phantoms.geometry import Grid

# What a single-slice instance says once per image and a multi-frame one in its functional groups.
_MOVED = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SliceLocation", "RescaleIntercept", "RescaleSlope", "RescaleType", "WindowCenter",
    "WindowWidth", "KVP", "DataCollectionDiameter", "ReconstructionDiameter", "ConvolutionKernel",
    "GantryDetectorTilt", "BodyPartExamined", "ProtocolName", "ContrastBolusAgent",
    "PixelPaddingValue", "AcquisitionNumber", "AcquisitionDate",
    "AcquisitionTime",
)  # fmt: skip
_CHEST = ("51185008", "SCT", "Chest")
_ABDOMEN = ("818983003", "SCT", "Abdomen")


def write_enhanced_ct(
    voxels: Voxels, grid: Grid, description: Description, path: Path, *, layout: Layout = PLAIN
) -> Path:
    """Write all slices into one file; gaps and missing slices show in the frames' positions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    enhanced_ct(voxels, grid, description, layout=layout).save_as(path, enforce_file_format=True)
    return path


def enhanced_ct(
    voxels: Voxels, grid: Grid, description: Description, *, layout: Layout = PLAIN
) -> Dataset:
    """Return the instance; frames are in the order in which single slices would be numbered."""
    slices = list(ct_instances(voxels, grid, description, layout=layout))
    ds = Dataset()
    ds.update(slices[0])
    for keyword in _MOVED:
        if keyword in ds:
            del ds[keyword]
    ds.SOPClassUID = EnhancedCTImageStorage
    ds.SOPInstanceUID = derive(str(ds.SeriesInstanceUID), "enhanced")
    ds.InstanceNumber = "1"
    ds.ImageType = [*layout.image_type[:2], "VOLUME", "NONE"]
    ds.AcquisitionDateTime = description.study_date + description.study_time
    ds.AcquisitionDuration = 5.0
    ds.NumberOfFrames = str(len(slices))
    ds.PixelPresentation, ds.VolumetricProperties = "MONOCHROME", "VOLUME"
    ds.VolumeBasedCalculationTechnique = "NONE"
    ds.ContentQualification, ds.BurnedInAnnotation = "RESEARCH", "NO"
    ds.LossyImageCompression, ds.PresentationLUTShape = "00", "IDENTITY"
    ds.AcquisitionContextSequence = Sequence()
    ds.MultienergyCTAcquisition = "NO"
    ds.SharedFunctionalGroupsSequence = [_shared(slices[0], description, layout)]
    ds.PerFrameFunctionalGroupsSequence = [
        _frame(number, image, description) for number, image in enumerate(slices, start=1)
    ]
    organization = derive(str(ds.SOPInstanceUID), "dimension")
    ds.DimensionOrganizationSequence = [_of(DimensionOrganizationUID=organization)]
    index = _of(DimensionOrganizationUID=organization)
    # Frames are ordered by Image Position (Patient) in the Plane Position Sequence.
    index.DimensionIndexPointer, index.FunctionalGroupPointer = 0x00200032, 0x00209113
    ds.DimensionIndexSequence = [index]
    ds.PixelData = b"".join(image.PixelData for image in slices)
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.update(slices[0].file_meta)
    ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def _of(**values: object) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _of(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _shared(first: Dataset, about: Description, layout: Layout) -> Dataset:
    region = _ABDOMEN if "ABDOMEN" in about.body_part else _CHEST
    frame_type = [*layout.image_type[:2], "VOLUME", "NONE"]
    anatomy = _of(AnatomicRegionSequence=[_code(*region)], FrameLaterality="U")
    measures = _of(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)
    kinds = _of(
        FrameType=frame_type, PixelPresentation="MONOCHROME", VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )  # fmt: skip
    transformation = _of(RescaleIntercept=str(INTERCEPT_HU), RescaleSlope="1", RescaleType="HU")
    window = _of(WindowCenter=str(about.window[0]), WindowWidth=str(about.window[1]))
    reconstruction = _of(
        ReconstructionAlgorithm="FILTER_BACK_PROJ", ConvolutionKernel=about.kernel,
        ConvolutionKernelGroup="LUNG", ReconstructionDiameter=first.ReconstructionDiameter,
        ReconstructionPixelSpacing=[float(v) for v in first.PixelSpacing],
        ReconstructionAngle=360.0, ImageFilter="NONE",
    )  # fmt: skip
    geometry = _of(DistanceSourceToDetector=1000.0, DistanceSourceToDataCollectionCenter=550.0)
    exposure = _of(ExposureTimeInms=500.0, XRayTubeCurrentInmA=200.0, ExposureInmAs=100.0,
                   ExposureModulationType="NONE")  # fmt: skip
    spiral = _of(AcquisitionType="SPIRAL", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")
    table = _of(TableSpeed=50.0, TableFeedPerRotation=25.0, SpiralPitchFactor=1.0)
    rays = _of(
        KVP="120", FocalSpots=["1.0"], FilterType="WEDGE", FilterMaterial=["ALUMINUM"],
        CalciumScoringMassFactorPatient=1.0,
    )  # fmt: skip
    return _of(
        FrameAnatomySequence=[anatomy],
        IrradiationEventIdentificationSequence=[
            _of(IrradiationEventUID=derive(about.identity, "irradiation"))
        ],
        PixelMeasuresSequence=[measures],
        PlaneOrientationSequence=[_of(ImageOrientationPatient=first.ImageOrientationPatient)],
        CTImageFrameTypeSequence=[kinds],
        PixelValueTransformationSequence=[transformation],
        FrameVOILUTSequence=[window],
        CTReconstructionSequence=[reconstruction],
        CTAcquisitionTypeSequence=[spiral],
        CTAcquisitionDetailsSequence=[_acquisition(layout)],
        CTTableDynamicsSequence=[table],
        CTGeometrySequence=[geometry],
        CTExposureSequence=[exposure],
        CTXRayDetailsSequence=[rays],
    )  # fmt: skip


def _acquisition(layout: Layout) -> Dataset:
    return _of(
        RotationDirection="CW", RevolutionTime=0.5, SingleCollimationWidth=0.6,
        TotalCollimationWidth=25.0, TableHeight="0",
        GantryDetectorTilt=format_number_as_ds(float(layout.gantry_tilt_degrees)),
        DataCollectionDiameter="500",
    )  # fmt: skip


def _frame(number: int, image: Dataset, about: Description) -> Dataset:
    moment = about.study_date + about.study_time
    content = _of(
        FrameAcquisitionNumber=1, FrameReferenceDateTime=moment, FrameAcquisitionDateTime=moment,
        FrameAcquisitionDuration=500.0, StackID="1", InStackPositionNumber=number,
        DimensionIndexValues=[number],
    )  # fmt: skip
    first = [float(v) for v in image.ImagePositionPatient]
    place = _of(
        TablePosition=first[2], DataCollectionCenterPatient=first,
        ReconstructionTargetCenterPatient=first,
    )  # fmt: skip
    return _of(
        FrameContentSequence=[content],
        CTPositionSequence=[place],
        PlanePositionSequence=[_of(ImagePositionPatient=image.ImagePositionPatient)],
    )
