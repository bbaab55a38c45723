"""What is really in an image, from whatever a site keeps it in.

A reference is matched with the package's classes by code, else by words: a label whose words all
stand in the class's name or meaning is that class. Names of regions that say no more than
"lesion" belong to the only lesion class of a package that has just one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.core.manifest import Manifest
from service.core.manifest_output import ClassSpec

Mask = NDArray[np.bool_]
Point = tuple[float, float, float]

_LESION_WORDS = frozenset(
    "lesion lesions nodule nodules tumor tumour tumors mass neoplasm metastasis cancer gtv".split()
)


@dataclass(frozen=True)
class Lesion:
    """A lesion of the reference: centre in LPS mm and diameter; not `counted` is neither way."""

    class_name: str
    center_mm: Point
    diameter_mm: float
    counted: bool = True


@dataclass
class Truth:
    """What the reference says of one series.

    `masks` are boolean, by class, shape (frames, rows, columns) in the order of the image's source
    frames. `labels` say of whole images whether a class is there; a class left out is unknown.
    """

    lesions: list[Lesion] = field(default_factory=list)
    masks: dict[str, Mask] = field(default_factory=dict)
    labels: dict[str, bool] = field(default_factory=dict)

    @property
    def says_anything(self) -> bool:
        """Whether there is anything to compare with."""
        return bool(self.lesions or self.masks or self.labels)


class Classes:
    """The package's classes, found by what a reference calls them."""

    def __init__(self, manifest: Manifest) -> None:
        self._specs = [spec for spec in manifest.classes if spec.kind != "background"]
        lesions = [spec for spec in self._specs if spec.kind == "lesion"]
        self._only_lesion = lesions[0].name if len(lesions) == 1 else None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all classes but the background, in the manifest's order."""
        return tuple(spec.name for spec in self._specs)

    def of_code(self, value: str, scheme: str, words: str) -> str | None:
        """Return the class of a coded label, or of its words."""
        for spec in self._specs:
            if spec.label and (spec.label.value, spec.label.scheme) == (value, scheme):
                return spec.name
        return self.of_words(words)

    def of_words(self, words: str) -> str | None:
        """Return the class that a name means, if any."""
        said = _tokens(words)
        if not said:
            return None
        for spec in self._specs:
            if said <= _known(spec):
                return spec.name
        return self._only_lesion if said & _LESION_WORDS else None


def _known(spec: ClassSpec) -> frozenset[str]:
    return _tokens(f"{spec.name} {spec.label.meaning if spec.label else ''}")


def _tokens(words: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", words.lower()))


def sphere_diameter_mm(volume_mm3: float) -> float:
    """Return the diameter of the sphere of a volume.

    >>> round(sphere_diameter_mm(523.6), 2)
    10.0
    """
    return float((6 * volume_mm3 / np.pi) ** (1 / 3))


def joined(truths: Sequence[Truth]) -> Truth:
    """Return what several references of one series say together."""
    whole = Truth()
    for truth in truths:
        whole.lesions += truth.lesions
        whole.labels |= truth.labels
        _unite(whole.masks, truth.masks)
    return whole


def _unite(into: dict[str, Mask], more: Mapping[str, Mask]) -> None:
    for name, mask in more.items():
        into[name] = into[name] | mask if name in into else mask
