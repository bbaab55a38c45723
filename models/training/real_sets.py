"""Public sets of real images as arrays, each split into training and validation.

All readers take the folder of a set and return images as float32 in 0..1, shape (N, H, W). What a
set is, who made it and under which licence stands in the card of each package trained on it.
"""

import csv
import gzip
import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]

BRAIN_SIZE = 192  # pixels of 1.28 mm, from 512 of 0.48 mm
OUTLINE_SIZE = 96  # the middle of a LIDC crop of 128 pixels
_FIFTH = 5


@dataclass(frozen=True)
class RealSet:
    """Images (N, H, W), targets (labels (N,) or masks (N, H, W)), and which are for validation."""

    images: Array
    targets: Array
    validation: NDArray[np.bool_]

    def part(self, *, validation: bool) -> tuple[Array, Array]:
        """Return images and targets of one part."""
        chosen = self.validation == validation
        return self.images[chosen], self.targets[chosen]


def luna16_candidates(folder: Path) -> RealSet:
    """Candidates of LUNA16, 50 x 50 pixels, HU -1000..400; label 1 is a nodule.

    The split is the set's own, by candidate: it does not name the series.
    """
    with zipfile.ZipFile(folder / "trainval.zip") as archive:
        rows = _index(archive)
        images = np.stack([_picture(archive, row["file"]) for row in rows])
    labels = np.array([float(row["label"]) for row in rows], np.float32)
    return RealSet(images, labels, np.array([row["split"] == "val" for row in rows]))


def pneumonia(folder: Path) -> RealSet:
    """PneumoniaMNIST, 28 x 28 pixels; label 1 is pneumonia; the set's own split."""
    known = np.load(folder / "trainval.npz")
    images = np.concatenate([known["train_images"], known["val_images"]])
    labels = np.concatenate([known["train_labels"], known["val_labels"]])[:, 0]
    held = np.arange(len(images)) >= len(known["train_images"])
    return RealSet((images / 255).astype(np.float32), labels.astype(np.float32), held)


def nodule_outlines(folder: Path) -> RealSet:
    """Middles of LIDC crops with the share of four readers who drew each pixel (0, 1/4 .. 1).

    A fifth of the patients is for validation. Grey is the crop's own range, so HU are lost.
    """
    parts = [np.load(path) for path in sorted(folder.glob("part*.npz"))]
    images, masks, patients = (
        np.concatenate([part[name] for part in parts]) for name in ("images", "masks", "patient")
    )
    votes = sum((masks >> reader) & 1 for reader in range(4))
    edge = (images.shape[1] - OUTLINE_SIZE) // 2
    middle = (slice(None), slice(edge, -edge), slice(edge, -edge))
    greys = np.stack([_range(image) for image in images.astype(np.float32)])
    return RealSet(
        greys[middle], (votes[middle] / 4).astype(np.float32), _fifth(np.asarray(patients))
    )


def brain_slices(folder: Path) -> RealSet:
    """T1 slices after contrast, 192 x 192, with tumour masks (0..1, share of each pixel).

    Patients are not named; slices of one patient are neighbours, so whole blocks of 48 numbers
    go to validation (the set leaves numbers out between blocks).
    """
    with zipfile.ZipFile(folder / "slices.zip") as archive:
        rows = _index(archive)
        names = [f"{int(row['id']):04d}" for row in rows]
        images = np.stack([_small(archive, f"images/{name}.jpg") for name in names])
        masks = np.stack([_small(archive, f"masks/{name}.png") for name in names])
    block = np.cumsum(np.diff([int(row["id"]) for row in rows], prepend=0) > 3)
    images = np.stack([_percentiles(image) for image in images])
    return RealSet(images, masks / max(1e-6, float(masks.max())), _fifth(block))


def brain_volumes(folder: Path) -> RealSet:
    """Axial slices of the volumes of TCIA's Brain-Tumor-Progression, for measuring alone.

    The files give no pixel size; their fields of view are taken to be those of `brain_slices`.
    Greys are scaled over each whole volume, as the product does.
    """
    images, masks = [], []
    for path in sorted(folder.glob("*_Scan_T1.nii.gz")):
        scan = _volume(path)
        scan = np.clip(scan / max(1.0, float(np.percentile(scan, 99.7))), 0, 1)
        drawn = _volume(path.with_name(path.name.replace("Scan_T1", "Mask"))) > 0
        images += [_resized(slab) for slab in scan]
        masks += [_resized(slab) for slab in drawn.astype(np.float32)]
    return RealSet(np.stack(images), np.stack(masks), np.ones(len(images), np.bool_))


def _volume(path: Path) -> Array:
    """Return an uncompressed NIfTI-1 volume of doubles as (slices, rows, columns)."""
    content = gzip.decompress(path.read_bytes())
    shape = struct.unpack("<3h", content[42:48])
    voxels = np.frombuffer(content[352:], "<f8").reshape(shape, order="F")
    return np.ascontiguousarray(voxels.T, dtype=np.float32)


READERS: Mapping[str, Callable[[Path], RealSet]] = {
    "luna16_candidates": luna16_candidates,
    "pneumonia": pneumonia,
    "nodule_outlines": nodule_outlines,
    "brain_slices": brain_slices,
    "brain_volumes": brain_volumes,
}


def _fifth(groups: NDArray[np.generic]) -> NDArray[np.bool_]:
    names = np.unique(groups)
    return np.isin(groups, names[2::_FIFTH])


def _index(archive: zipfile.ZipFile) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(archive.read("index.csv").decode())))


def _open(archive: zipfile.ZipFile, name: str) -> Image.Image:
    return Image.open(io.BytesIO(archive.read(name))).convert("L")


def _picture(archive: zipfile.ZipFile, name: str) -> Array:
    return np.asarray(_open(archive, name), np.float32) / 255


def _small(archive: zipfile.ZipFile, name: str) -> Array:
    return _resized(np.asarray(_open(archive, name), np.float32)) / 255


def _resized(slab: Array) -> Array:
    size = (BRAIN_SIZE, BRAIN_SIZE)
    return np.asarray(Image.fromarray(slab).resize(size, Image.Resampling.BILINEAR))


def _range(image: Array) -> Array:
    low, high = float(image.min()), float(image.max())
    return np.asarray((image - low) / max(1.0, high - low), np.float32)


def _percentiles(image: Array) -> Array:
    """Map 0 to the 99.5th percentile of what is brighter than air to 0..1."""
    bright = image[image > 0.04 * image.max()]
    high = float(np.percentile(bright, 99.5))
    return np.clip(image / max(1e-6, high), 0, 1).astype(np.float32)
