"""Which device networks run on: asked for by name, compared with what the runtime really chose."""

import ctypes
from base64 import b64decode
from dataclasses import dataclass
from functools import cache

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as binding

from service.core.errors import InvalidSettings

# y = Identity(x) over one float: the smallest network that shows where a session lands.
IDENTITY = b64decode(
    "CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0="
)


# The runtime's errors have no base of their own below Exception; Python-level ones come on top.
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    *(
        found
        for found in vars(binding).values()
        if isinstance(found, type) and issubclass(found, Exception)
    ),
    RuntimeError,
    ValueError,
    MemoryError,
)


@dataclass(frozen=True)
class Device:
    """A device by name (``cpu``, ``cuda:0``) and the execution provider that drives it."""

    name: str
    provider: str
    index: int = 0

    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """Return providers and options for a session; CUDA alone would refuse host-only nodes."""
        cpu: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
        if self.provider == cpu[0]:
            return [cpu]
        # Growth by the requested size keeps several warm networks from doubling their arenas.
        options = {
            "device_id": str(self.index),
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",
        }
        return [(self.provider, options), cpu]


CPU = Device("cpu", "CPUExecutionProvider")


def choose_device(wanted: str) -> Device:
    """Return the device for a setting: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    The runtime falls back to the CPU in silence when CUDA cannot start, and goes on listing CUDA as
    available. So a tiny session is opened and asked where it landed; only ``auto`` may then
    settle for the CPU.

    Raises
    ------
    InvalidSettings
        ``DEVICE`` when the setting is none of these, or CUDA is wanted and does not start.
    """
    name, _, index = wanted.partition(":")
    if wanted == "cpu":
        return CPU
    if wanted not in ("auto", "cuda") and not (name == "cuda" and index.isdecimal()):
        raise InvalidSettings("DEVICE", f"device: found {wanted!r}, allowed auto, cpu, cuda:N")
    device = Device(f"cuda:{index or 0}", "CUDAExecutionProvider", int(index or 0))
    if _starts(device):
        return device
    if wanted == "auto":
        return CPU
    raise InvalidSettings(
        "DEVICE",
        f"device: found {wanted}, but CUDA does not start here: it needs an NVIDIA driver and "
        "the extra overread[cuda]; allowed cpu",
    )


@cache
def _starts(device: Device) -> bool:
    """Return whether a session on this device really lands there."""
    if device.provider not in ort.get_available_providers() or not _has_driver():
        return False
    # The CUDA libraries of the `cuda` extra lie in site-packages, where no linker looks.
    ort.preload_dlls()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(IDENTITY, options, providers=device.providers())
    except RUNTIME_ERRORS:
        return False
    return bool(session.get_providers()[0] == device.provider)


def _has_driver() -> bool:
    # Without a driver, preloading prints a page of warnings for every worker of a CPU site.
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
