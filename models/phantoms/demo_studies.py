"""The three synthetic patients of the demo, each with findings that a reader would not miss."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom import dcmread

from models.phantoms.abdomen_scan import abdomen_scan
from models.phantoms.acquisition import Protocol
from models.phantoms.chest_ct import chest_ct, describe
from models.phantoms.ct_dicom import Description, write_ct
from models.phantoms.detector import develop
from models.phantoms.population import ThoraxOptions
from models.phantoms.radiograph import cast_shadows, draw_exposure, make_chest_patient
from models.phantoms.radiograph_dicom import Detector, write_radiograph
from models.phantoms.seeds import Split, seed_of

# Coarser than a scanner's images, so that drawing a patient takes seconds.
_CT_COLUMNS = 320
_ABDOMEN_PIXEL_MM = 1.1
_RADIOGRAPH_SHAPE = (1024, 1024)
_CHEST_PATIENT = 0
_RADIOGRAPH_PATIENT = 2
_ABDOMEN_PATIENT = 2


@dataclass(frozen=True)
class DemoStudy:
    """One study: how many SR are due for it, and whether a SEG is."""

    name: str
    title: str
    task: str
    reports: int
    segmentations: bool


CHEST_CT = DemoStudy("chest_ct", "chest CT", "lung nodules", 1, segmentations=True)
RADIOGRAPHS = DemoStudy("chest_xray", "chest radiographs", "chest X-ray", 2, segmentations=True)
ABDOMEN_CT = DemoStudy("abdomen_ct", "abdominal CT", "liver lesions", 1, segmentations=True)
DEMO_STUDIES = (CHEST_CT, RADIOGRAPHS, ABDOMEN_CT)


def write_study(study: DemoStudy, folder: Path) -> tuple[str, list[str]]:
    """Write a study's files into a folder; return its UID and its instances' UIDs."""
    writers = {CHEST_CT: _chest_ct, RADIOGRAPHS: _radiographs, ABDOMEN_CT: _abdomen_ct}
    return writers[study](folder)


def _chest_ct(folder: Path) -> tuple[str, list[str]]:
    options = ThoraxOptions(nodules=3, nodule_size_mm=(8.0, 22.0))
    seed = seed_of(Split.DEMO, _CHEST_PATIENT)
    chest = chest_ct(seed, options=options, protocol=Protocol(), columns=_CT_COLUMNS)
    description = describe(chest)
    paths = write_ct(chest.scan.hu, chest.scan.grid, description, folder)
    return description.study_instance_uid, _instances(paths)


def _radiographs(folder: Path) -> tuple[str, list[str]]:
    """One patient, frontal, by a digital and by a computed system."""
    seed = seed_of(Split.DEMO, _RADIOGRAPH_PATIENT)
    thorax = make_chest_patient(seed)
    exposure = draw_exposure(thorax, _RADIOGRAPH_SHAPE)
    (shadow,) = cast_shadows(thorax, exposure)
    description = Description(
        identity=f"radiograph/{seed}",
        patient_name=f"Phantom^Radiograph{seed}",
        patient_id=f"PHANTOM-XR-{seed}",
        accession_number=f"SYNXR{seed}",
        study_description="XR CHEST",
        series_description="CHEST FRONTAL",
        series_number=1,
    )
    paths = []
    for series, detector in enumerate((Detector(), Detector(computed=True, monochrome1=True))):
        image = develop(
            shadow.path, np.random.default_rng([seed, series]), pixel_mm=exposure.pixel_mm
        )
        about = replace(description, series_number=series + 1)
        path = folder / f"{series:04d}.dcm"
        paths.append(write_radiograph(image, exposure, about, path, detector=detector))
    return description.study_instance_uid, _instances(paths)


def _abdomen_ct(folder: Path) -> tuple[str, list[str]]:
    seed = seed_of(Split.DEMO, _ABDOMEN_PATIENT)
    _, _, scan = abdomen_scan(seed, pixel_mm=_ABDOMEN_PIXEL_MM)
    description = Description(
        identity=f"abdomen/{seed}",
        patient_name=f"Phantom^Abdomen{seed}",
        patient_id=f"PHANTOM-AB-{seed}",
        accession_number=f"SYNAB{seed}",
        study_description="CT ABDOMEN",
        series_description="ABDOMEN PORTAL VENOUS",
        body_part="ABDOMEN",
        kernel=scan.protocol.kernel,
        thickness_mm=scan.protocol.thickness_mm,
        contrast_agent="SYNTHETIC",
        window=(60, 400),
    )
    paths = write_ct(scan.hu, scan.grid, description, folder)
    return description.study_instance_uid, _instances(paths)


def _instances(paths: list[Path]) -> list[str]:
    return [str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in paths]
