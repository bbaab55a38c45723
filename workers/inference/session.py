"""A network in memory: opened from checked bytes on one device, run with a deadline.

What goes in and comes out are float32 arrays by tensor name. Whatever the network does, a run ends
by its deadline with finite arrays of the promised shapes or with a `ContractViolation`.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.core.errors import ContractViolation, InvalidModel
from service.core.manifest_input import Network, Tensor
from workers.inference.device import CPU, RUNTIME_ERRORS, Device
from workers.inference.files import pinned_bytes
from workers.inference.graph import foreign_domains, read_graph

Array = NDArray[np.float32]

# Size of a dynamic dimension in warm-up: every stride in use divides it, six halvings included.
_WARM_UP_EDGE = 64
# Outputs that are as long as what was found.
_LISTS = frozenset({"boxes", "scores"})


@dataclass(frozen=True)
class Session:
    """An open network; `run` is its only use."""

    label: str
    network: Network
    device: Device
    runtime: ort.InferenceSession

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the network once; tensors are named by their meaning in the manifest.

        Raises
        ------
        ContractViolation
            ``MODEL_TIMEOUT`` when the deadline passed; ``MODEL_OUTPUT`` when an output has
            another shape than promised or holds NaN or infinity; ``MODEL_RUN`` when the runtime
            gave up.
        """
        options = ort.RunOptions()
        limit_s = self.network.time_limit_s
        with _deadline(options, limit_s) as passed:
            try:
                arrays = self._evaluate(self._bound(feeds), options)
            except RUNTIME_ERRORS as error:
                if passed.is_set():
                    raise ContractViolation(
                        "MODEL_TIMEOUT", f"{self.label}: did not end within {limit_s:g} s"
                    ) from error
                cause = str(error).splitlines()[0][:200]
                raise ContractViolation("MODEL_RUN", f"{self.label}: {cause}") from error
        outputs = zip(self.network.outputs, arrays, strict=True)
        return {tensor.known_as: self._checked(tensor, array) for tensor, array in outputs}

    def warm_up(self, edge: int = _WARM_UP_EDGE) -> None:
        """Run once on zeros, so that the first study does not pay for allocation."""
        self.run(blank_feeds(self.network, edge=edge))

    def _bound(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {
            tensor.name: np.ascontiguousarray(feeds[tensor.known_as], dtype=np.float32)
            for tensor in self.network.inputs
        }

    def _evaluate(self, feeds: Mapping[str, Array], options: ort.RunOptions) -> list[Array]:
        names = [tensor.name for tensor in self.network.outputs]
        if self.device.provider == CPU.provider:
            arrays: list[Array] = self.runtime.run(names, dict(feeds), options)
            return arrays
        # Outputs are bound to the host: one copy each, without the runtime's own staging.
        binding = self.runtime.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in names:
            binding.bind_output(name, "cpu")
        self.runtime.run_with_iobinding(binding, options)
        bound: list[Array] = binding.copy_outputs_to_cpu()
        return bound

    def _checked(self, tensor: Tensor, array: Array) -> Array:
        fits = array.ndim == len(tensor.shape) and all(
            promised in (0, found)
            for promised, found in zip(tensor.shape, array.shape, strict=False)
        )
        if fits and array.dtype == np.float32 and array.size == 0 and tensor.known_as in _LISTS:
            return array  # a detector that found nothing
        if not fits or array.dtype != np.float32 or array.size == 0:
            raise ContractViolation(
                "MODEL_OUTPUT",
                f"{self.label}: {tensor.name}: found {array.dtype} {array.shape}, "
                f"allowed {tensor.dtype} {tensor.shape} with 0 for any size",
            )
        # The extremes carry any NaN or infinity, without a boolean copy of the array.
        if not np.isfinite(array.min()) or not np.isfinite(array.max()):
            raise ContractViolation(
                "MODEL_OUTPUT", f"{self.label}: {tensor.name}: found NaN or Inf"
            )
        return array


def open_session(
    folder: Path,
    network: Network,
    device: Device,
    *,
    threads: int = 0,
    content: bytes | None = None,
) -> Session:
    """Open a package's network; `threads` 0 lets the runtime choose.

    Raises
    ------
    InvalidModel
        ``MODEL_FILE``, ``DIGEST`` (see `workers.inference.files`), ``MODEL_GRAPH`` when the graph
        is not what the manifest says or wants data or operators from elsewhere, ``MODEL_LOAD`` when
        the runtime refuses it, ``DEVICE`` when it landed on another device.
    """
    label = f"{folder.name}: {network.file}"
    content = network_bytes(folder, network) if content is None else content
    try:
        runtime = ort.InferenceSession(
            content, _options(threads), providers=device.providers(), enable_fallback=False
        )
    except RUNTIME_ERRORS as error:
        cause = str(error).splitlines()[0][:200]
        raise InvalidModel("MODEL_LOAD", f"{label}: {cause}") from error
    if runtime.get_providers()[0] != device.provider:
        raise InvalidModel(
            "DEVICE", f"{label}: found {runtime.get_providers()[0]}, allowed {device.provider}"
        )
    _compare(label, "inputs", network.inputs, runtime.get_inputs())
    _compare(label, "outputs", network.outputs, runtime.get_outputs())
    return Session(label, network, device, runtime)


def network_bytes(folder: Path, network: Network) -> bytes:
    """Return a network's bytes after checking digest and graph, without running any of it."""
    label = f"{folder.name}: {network.file}"
    content = pinned_bytes(folder, network.file, sha256=network.sha256)
    try:
        graph = read_graph(content)
    except InvalidModel as error:
        raise InvalidModel(error.reason, f"{label}: {error.message}") from error
    if graph.external_data:
        raise InvalidModel("MODEL_GRAPH", f"{label}: found tensors outside the file, allowed none")
    if domains := foreign_domains(graph):
        raise InvalidModel(
            "MODEL_GRAPH", f"{label}: found operators of {', '.join(domains)}, allowed ONNX's own"
        )
    if graph.opset != network.opset:
        raise InvalidModel(
            "MODEL_GRAPH",
            f"{label}: opset: found {graph.opset}, allowed {network.opset} (manifest)",
        )
    return content


def blank_feeds(network: Network, *, edge: int = _WARM_UP_EDGE) -> dict[str, Array]:
    """Return zeros of the input's shape: batch 1, other dynamic dimensions `edge` long."""
    feeds = {}
    for tensor in network.inputs:
        sizes = [size or (1 if axis == 0 else edge) for axis, size in enumerate(tensor.shape)]
        feeds[tensor.known_as] = np.zeros(sizes, dtype=np.float32)
    return feeds


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A repeated job has to give the same findings.
    options.use_deterministic_compute = True
    # Idle threads that spin would take the cores from decoding the next study.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _compare(label: str, what: str, promised: tuple[Tensor, ...], found: list[ort.NodeArg]) -> None:
    """Refuse a graph whose tensors are not those of the manifest."""
    by_name = {node.name: node for node in found}
    for tensor in promised:
        node = by_name.get(tensor.name)
        if node is None:
            raise InvalidModel(
                "MODEL_GRAPH",
                f"{label}: {what}: found {', '.join(sorted(by_name))}, allowed {tensor.name}",
            )
        sizes = [size if isinstance(size, int) else 0 for size in node.shape]
        fits = len(sizes) == len(tensor.shape) and all(
            0 in (here, there) or here == there
            for here, there in zip(sizes, tensor.shape, strict=True)
        )
        if node.type != "tensor(float)" or not fits:
            raise InvalidModel(
                "MODEL_GRAPH",
                f"{label}: {tensor.name}: found {node.type} {sizes}, "
                f"allowed tensor(float) {list(tensor.shape)} with 0 for any size",
            )
    if what == "inputs" and len(by_name) != len(promised):
        raise InvalidModel("MODEL_GRAPH", f"{label}: inputs: found {len(by_name)}, allowed 1")


@contextmanager
def _deadline(options: ort.RunOptions, limit_s: float) -> Iterator[threading.Event]:
    """End the run that uses `options` after `limit_s`; the event tells whether it had to."""
    passed = threading.Event()

    def stop() -> None:
        passed.set()
        options.terminate = True

    timer = threading.Timer(limit_s, stop)
    timer.daemon = True
    timer.start()
    try:
        yield passed
    finally:
        timer.cancel()
