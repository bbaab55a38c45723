"""Which kind a network is, and what its outputs mean, from the shapes of its tensors."""

from dataclasses import dataclass
from typing import Any

from service.core.errors import InvalidModel
from workers.inference.tensors import Port, Ports

_ROLES = {"detection": "detector", "classification": "classifier", "segmentation": "segmenter"}
_HEAT = ("heat", "offset", "log_diameter")
_BOXES = ("boxes", "scores")


@dataclass(frozen=True)
class Reading:
    """A kind with its tensors by meaning, and how many classes come out (0: not known)."""

    kind: str
    image: Port
    meanings: dict[str, str]
    classes: int
    is_flat: bool

    def network(self, ports: Ports) -> dict[str, Any]:
        """Return the manifest's entry for the network, without file, digest and opset."""
        outputs = [port for port in ports.outputs if port.name in self.meanings]
        return {
            "role": _ROLES[self.kind],
            "inputs": [_tensor(self.image, self._image_meaning())],
            "outputs": [_tensor(port, self.meanings[port.name]) for port in outputs],
        }

    def _image_meaning(self) -> str:
        if self.kind == "classification":
            return "image"
        return "slab" if self.is_flat else "volume"


def read_kind(ports: Ports, wanted: str | None = None) -> Reading:
    """Return what the shapes say; `wanted` is the kind where it was told.

    Raises
    ------
    InvalidModel
        ``MODEL_GRAPH`` when a kind cannot be read from it, saying what is allowed.
    """
    if len(ports.inputs) != 1:
        names = ", ".join(port.name for port in ports.inputs) or "none"
        raise InvalidModel("MODEL_GRAPH", f"inputs: found {names}, allowed one image")
    image = ports.inputs[0]
    if not image.is_float32 or len(image.shape) not in (4, 5):
        raise InvalidModel(
            "MODEL_GRAPH",
            f"{image.name}: found {list(image.shape)}, allowed float32 (N, C, H, W) or"
            " (N, 1, D, H, W)",
        )
    outputs = tuple(port for port in ports.outputs if port.is_float32)
    readings = [
        reading
        for reading in (_detection(image, ports.outputs), *_single(image, outputs))
        if reading and wanted in (None, reading.kind)
    ]
    if not readings:
        shapes = ", ".join(f"{port.name} {list(port.shape)}" for port in ports.outputs)
        raise InvalidModel(
            "MODEL_GRAPH",
            f"outputs: found {shapes}, allowed logits (N, K) for a classification, (N, K, ...) of"
            " the input's size for a segmentation, boxes and scores or heat, offset and"
            " log_diameter for a detection",
        )
    return readings[0]


def _detection(image: Port, outputs: tuple[Port, ...]) -> Reading | None:
    names = {port.name: port for port in outputs}
    for wanted in (_HEAT, _BOXES):
        if len(image.shape) == 5 and all(name in names for name in wanted):
            classes = names["heat"].shape[1] if wanted is _HEAT else 1
            return Reading("detection", image, {name: name for name in wanted}, classes, False)
    return None


def _single(image: Port, outputs: tuple[Port, ...]) -> list[Reading | None]:
    """Return readings by the first output of a fitting rank."""
    flat = len(image.shape) == 4
    found: list[Reading | None] = []
    for port in outputs:
        rank = len(port.shape)
        if flat and rank == 2:
            maps = {p.name: p.name for p in outputs if p.name == "evidence" and len(p.shape) == 4}
            meanings = {port.name: "logits", **maps}
            found.append(Reading("classification", image, meanings, port.shape[1], True))
        elif rank == len(image.shape):
            found.append(Reading("segmentation", image, {port.name: "logits"}, port.shape[1], flat))
    return found


def _tensor(port: Port, meaning: str) -> dict[str, Any]:
    # The batch is always free in the manifest: a graph of a fixed batch of 1 still fits.
    shape = [0, *port.shape[1:]] if port.shape[:1] != (1,) else list(port.shape)
    section: dict[str, Any] = {"name": port.name, "shape": shape}
    return section | ({"meaning": meaning} if meaning != port.name else {})
