"""Turn trained networks into ONNX files with half-precision weights, and check that they agree."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET = 20
_SMALLEST_HALVED = 512


@dataclass(frozen=True)
class Export:
    """An exported file: its digest, size, and largest difference from the network in torch."""

    path: Path
    sha256: str
    size_bytes: int
    largest_difference: float


def export_network(
    network: nn.Module,
    example: Tensor,
    path: Path,
    *,
    names: tuple[str, tuple[str, ...]],
    fixed_size: bool = False,
) -> Export:
    """Write `network` as ONNX; inputs and outputs stay float32, weights are stored in half.

    Parameters
    ----------
    names
        Name of the input, names of the outputs.
    fixed_size
        Only the batch axis may vary; otherwise all but the channel axis may.
    """
    network = network.eval().float().cpu()
    auto = torch.export.Dim.AUTO
    axes = (0,) if fixed_size else (0, *range(2, example.dim()))
    torch.onnx.export(
        network, (example,), path, input_names=[names[0]], output_names=list(names[1]),
        dynamic_shapes=({a: auto for a in axes},), dynamo=True, opset_version=OPSET,
        external_data=False, verbose=False,
    )  # fmt: skip
    model = onnx.load(path)
    drop_traces(model)
    _store_in_half(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    found = path.read_bytes()
    return Export(
        path, hashlib.sha256(found).hexdigest(), len(found), _difference(network, example, path)
    )


def drop_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes: paths and stack traces of the machine that trained."""
    graph = model.graph
    for part in (
        model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output,
        *graph.initializer, *model.functions,
    ):  # fmt: skip
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _store_in_half(model: onnx.ModelProto) -> None:
    """Keep large weights as float16 and cast them when the file is loaded."""
    graph = model.graph
    casts = []
    for number, weights in enumerate(graph.initializer):
        if weights.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weights)
        if values.size < _SMALLEST_HALVED:
            continue
        name = weights.name
        halved = numpy_helper.from_array(values.astype(np.float16), f"{name}_half")
        graph.initializer[number].CopyFrom(halved)
        casts.append(helper.make_node("Cast", [halved.name], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        graph.node.insert(0, node)


def _difference(network: nn.Module, example: Tensor, path: Path) -> float:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    with torch.no_grad():
        wanted = network(example)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    return max(float(np.abs(a - b.numpy()).max()) for a, b in zip(found, wanted, strict=True))
