"""What every kind is given and what it gives back.

A kind turns one volume or radiograph into an `Analysis`. It knows manifests, networks and images;
it knows no files, no database and no DICOM objects.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.core.errors import ContractViolation
from service.core.findings import Analysis
from service.core.manifest import Manifest
from service.core.manifest_output import OperatingPoint

Array = NDArray[np.float32]
Identify = Callable[[int], tuple[str, str]]
Image_contra = TypeVar("Image_contra", contravariant=True)


class Runs(Protocol):
    """A network that can be run: arrays in and out by their meaning in the manifest."""

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the network once."""
        ...


def unheard(stage: str, fraction: float) -> None:
    """Take progress that nobody asked for."""


@dataclass(frozen=True)
class Context:
    """How an image is to be analysed.

    `networks` are open networks by role. `identify` gives a finding's id and tracking UID from its
    rank, 0 being the most probable, so that a repeat of the job gives the same. `progress` hears a
    stage and the part of it that is done.
    """

    manifest: Manifest
    networks: Mapping[str, Runs]
    operating_point: OperatingPoint
    identify: Identify
    progress: Callable[[str, float], None] = unheard

    @property
    def package(self) -> str:
        """Name of the package, for errors."""
        return self.manifest.package.name

    def run(self, role: str, feed: Array) -> Mapping[str, Array]:
        """Run the network of a role on its one input."""
        spec = self.manifest.network(role)
        if spec is None:
            raise ContractViolation("MODEL_ROLE", f"{self.package}: no network is the {role}")
        return self.networks[role].run({spec.inputs[0].known_as: feed})


class Kind(Protocol[Image_contra]):
    """A way of reading network output."""

    def analyse(self, image: Image_contra, context: Context) -> Analysis:
        """Return what the model says about an image.

        Raises
        ------
        UnsuitableSeries
            When a guard refuses the image, with its reason.
        ContractViolation
            When a network breaks its promise.
        """
        ...


def take(outputs: Mapping[str, Array], name: str, *, package: str) -> Array:
    """Return an output by its meaning.

    Raises
    ------
    ContractViolation
        ``MODEL_OUTPUT`` when the network has no output of that meaning.
    """
    if name not in outputs:
        raise ContractViolation(
            "MODEL_OUTPUT", f"{package}: found outputs {', '.join(outputs)}, allowed {name}"
        )
    return outputs[name]


def require_shape(array: Array, shape: tuple[int | None, ...], *, name: str, package: str) -> None:
    """Compare an output's shape; None stands for any size.

    Raises
    ------
    ContractViolation
        ``MODEL_OUTPUT`` when it differs.
    """
    fits = array.ndim == len(shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=True)
    )
    if not fits:
        allowed = tuple("any" if size is None else size for size in shape)
        raise ContractViolation(
            "MODEL_OUTPUT", f"{package}: {name}: found {array.shape}, allowed {allowed}"
        )


def sigmoid(logits: Array) -> Array:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (np.tanh(0.5 * logits) + 1.0), dtype=np.float32)


def logit(probability: float) -> float:
    """Return log(p / (1 - p)), bounded for 0 and 1."""
    bounded = min(max(probability, 1e-6), 1 - 1e-6)
    return float(np.log(bounded / (1 - bounded)))
