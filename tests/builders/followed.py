"""Patients followed over time as volumes, with findings as a perfect reader would make them."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from models.phantoms.acquisition import Protocol, Scan
from models.phantoms.ct_dicom import Description, write_ct
from models.phantoms.follow_up import FollowedPatient, followed_patient
from models.phantoms.seeds import Split, seed_of
from service.core.findings import Code, Finding, FindingMask, Qualifier
from tests.builders.volumes import sources_in
from workers.kinds.measurements import measure_mask
from workers.volume.plan import VolumeRules
from workers.volume.series import Volume, load_volume

NODULE = Code(value="27925004", scheme="SCT", meaning="Nodule")
_MEASURES = ("long_axis", "short_axis", "volume")
# Coarser than any scanner, so that a patient is drawn twice in a few seconds.
_FIRST = Protocol(
    thickness_mm=2.5, increment_mm=2.5, pixel_mm=1.7, blur_mm=1.8, noise_hu=15.0, grain_hu=0.0
)
_SECOND = Protocol(
    thickness_mm=3.0, increment_mm=2.2, pixel_mm=1.9, blur_mm=2.1, noise_hu=25.0, grain_hu=6.0
)


@cache
def followed(index: int) -> tuple[FollowedPatient, Volume, Volume]:
    """Return a patient of the tests' own seeds, and the earlier and the later scan as volumes."""
    patient = followed_patient(seed_of(Split.UNIT, index), protocols=(_FIRST, _SECOND))
    return patient, volume_of(patient.earlier), volume_of(patient.later)


def volume_of(scan: Scan) -> Volume:
    """Return a scan as it is read back from the files that it is written to."""
    with tempfile.TemporaryDirectory() as folder:
        write_ct(scan.hu, scan.grid, Description(identity="followed"), Path(folder))
        return load_volume(sources_in(Path(folder)), VolumeRules(), threads=2)


def findings_of(scan: Scan, volume: Volume, name: str) -> tuple[Finding, ...]:
    """Return a finding for every lesion that the truth marks, measured on its own voxels."""
    assert scan.labels is not None
    found = []
    for number, box in enumerate(ndimage.find_objects(scan.labels), start=1):
        voxels = scan.labels[box] == number
        mask = FindingMask((box[0].start, box[1].start, box[2].start), np.ascontiguousarray(voxels))
        measured = measure_mask(mask, volume, _MEASURES)
        found.append(
            Finding(
                id=f"{name}-{number}",
                tracking_uid=f"2.25.{len(name)}{number}",
                tracking_id=f"Nodule {number}",
                label=NODULE,
                class_name="nodule",
                probability=0.9,
                qualifier=Qualifier.PRESENT,
                location=measured.location,
                measurements=measured.measurements,
            )
        )
    return tuple(found)
