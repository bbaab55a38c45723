"""Tiny ONNX networks whose answers can be worked out by hand, and hostile ones.

The useful ones measure brightness: a voxel or pixel brighter than a threshold speaks for a
lesion, with `GAIN` logits for each unit that it is above.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
GAIN = 40.0
STRIDE = 2

Shape = Sequence[int | str]


def network(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    constants: Mapping[str, ArrayLike] | None = None,
    *,
    opset: int = OPSET,
    domains: Mapping[str, int] | None = None,
) -> bytes:
    """Return a network as the bytes of its file; names in a shape are dynamic sizes."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(name, version) for name, version in (domains or {}).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=9).SerializeToString()


def detector(*, threshold: float, diameter_mm: float) -> bytes:
    """Return a detector of bright balls: heat GAIN x (smoothed brightness - threshold).

    Brightness is averaged over the eight voxels of a cell and then over 3 x 3 x 3 cells, so that a
    ball has one peak. Offsets are 0, so a centre is exact to a cell's half diagonal.
    """
    nodes = [
        helper.make_node(
            "AveragePool", ["volume"], ["cells"], kernel_shape=[2] * 3, strides=[2] * 3
        ),
        helper.make_node(
            "AveragePool", ["cells"], ["smooth"], kernel_shape=[3] * 3, pads=[1] * 6,
            strides=[1] * 3, count_include_pad=1,
        ),
        helper.make_node("Sub", ["smooth", "threshold"], ["above"]),
        helper.make_node("Mul", ["above", "gain"], ["heat"]),
        helper.make_node("Mul", ["heat", "zero"], ["nothing"]),
        helper.make_node("Concat", ["nothing", "nothing", "nothing"], ["offset"], axis=1),
        helper.make_node("Add", ["nothing", "size"], ["log_diameter"]),
    ]  # fmt: skip
    cells = ["n", 1, "d2", "h2", "w2"]
    return network(
        nodes,
        {"volume": ["n", 1, "d", "h", "w"]},
        {"heat": cells, "offset": ["n", 3, "d2", "h2", "w2"], "log_diameter": cells},
        {
            "threshold": np.float32(threshold),
            "gain": np.float32(GAIN),
            "zero": np.float32(0),
            "size": np.float32(np.log(diameter_mm)),
        },
    )


def boxer(*, threshold: float) -> bytes:
    """Return an anchor-based detector of one window: the box of all bright voxels, if any.

    Boxes are (lowest corner, highest corner) in voxels; the score is 0.9.
    """
    nodes = [
        helper.make_node("Greater", ["volume", "threshold"], ["bright"]),
        helper.make_node("NonZero", ["bright"], ["places"]),
        helper.make_node("Slice", ["places", "two", "five", "zero"], ["zyx"]),
        helper.make_node("Cast", ["zyx"], ["corners"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["corners"], ["points"], perm=[1, 0]),
        helper.make_node("Concat", ["points", "far"], ["with_far"], axis=0),
        helper.make_node("ReduceMin", ["with_far"], ["low"], axes=[0], keepdims=1),
        helper.make_node("Concat", ["points", "near"], ["with_near"], axis=0),
        helper.make_node("ReduceMax", ["with_near"], ["last"], axes=[0], keepdims=1),
        helper.make_node("Add", ["last", "one"], ["high"]),
        helper.make_node("Concat", ["low", "high"], ["all"], axis=1),
        helper.make_node("Shape", ["points"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "first", "zero"], ["count"]),
        helper.make_node("Min", ["count", "first"], ["some"]),
        helper.make_node("Slice", ["all", "zero", "some", "zero"], ["boxes"]),
        helper.make_node("Slice", ["sure", "zero", "some", "zero"], ["scores"]),
    ]
    return network(
        nodes,
        {"volume": [1, 1, "d", "h", "w"]},
        {"boxes": ["m", 6], "scores": ["m"]},
        {
            "threshold": np.float32(threshold),
            "two": np.array([2], np.int64), "five": np.array([5], np.int64),
            "zero": np.array([0], np.int64), "first": np.array([1], np.int64),
            "one": np.float32(1), "far": np.full((1, 3), 1e6, np.float32),
            "near": np.full((1, 3), -2, np.float32), "sure": np.array([0.9], np.float32),
        },
        opset=17,
    )  # fmt: skip


def brightness_of_crop(*, threshold: float, edge: int, output: str = "logit") -> bytes:
    """Return a second stage: GAIN x (brightest of the crop's middle 8 x 8 x 8 - threshold)."""
    half = edge // 2
    nodes = [
        helper.make_node("Slice", ["crop", "starts", "ends", "axes"], ["middle"]),
        helper.make_node("GlobalMaxPool", ["middle"], ["brightest"]),
        helper.make_node("Flatten", ["brightest"], ["flat"]),
        helper.make_node("Sub", ["flat", "threshold"], ["above"]),
        helper.make_node("Mul", ["above", "gain"], [output]),
    ]
    return network(
        nodes,
        {"crop": ["n", 1, edge, edge, edge]},
        {output: ["n", 1]},
        {
            "starts": np.array([half - 4] * 3, np.int64),
            "ends": np.array([half + 4] * 3, np.int64),
            "axes": np.array([2, 3, 4], np.int64),
            "threshold": np.float32(threshold),
            "gain": np.float32(GAIN),
        },
    )


def bright_voxels(*, threshold: float, name: str = "crop") -> bytes:
    """Return a segmentation of what is brighter than a threshold: logits GAIN x (value - it)."""
    return network(
        [
            helper.make_node("Sub", [name, "threshold"], ["above"]),
            helper.make_node("Mul", ["above", "gain"], ["logits"]),
        ],
        {name: ["n", 1, "d", "h", "w"]},
        {"logits": ["n", 1, "d", "h", "w"]},
        {"threshold": np.float32(threshold), "gain": np.float32(GAIN)},
    )


def layers(*thresholds: float, context_slices: int = 0, name: str = "volume") -> bytes:
    """Return a segmenter of brightness layers: class k begins at the k-th threshold.

    Background has logit 0 and class k sum over j <= k of GAIN x (value - threshold j), so that the
    most probable class changes exactly at each threshold. With `context_slices` the network takes
    slabs (N, C, H, W) and looks at the middle slice alone.
    """
    nodes = []
    source = "middle" if context_slices else name
    constants: dict[str, ArrayLike] = {"gain": np.float32(GAIN), "zero": np.float32(0)}
    if context_slices:
        half = context_slices // 2
        constants |= {
            "starts": np.array([half], np.int64),
            "ends": np.array([half + 1], np.int64),
            "axes": np.array([1], np.int64),
        }
        nodes.append(helper.make_node("Slice", ["slab", "starts", "ends", "axes"], ["middle"]))
    nodes.append(helper.make_node("Mul", [source, "zero"], ["class0"]))
    for number, threshold in enumerate(thresholds, start=1):
        constants[f"threshold{number}"] = np.float32(threshold)
        nodes += [
            helper.make_node("Sub", [source, f"threshold{number}"], [f"above{number}"]),
            helper.make_node("Mul", [f"above{number}", "gain"], [f"step{number}"]),
            helper.make_node("Add", [f"class{number - 1}", f"step{number}"], [f"class{number}"]),
        ]
    names = [f"class{number}" for number in range(len(thresholds) + 1)]
    nodes.append(helper.make_node("Concat", names, ["logits"], axis=1))
    spatial = ["h", "w"] if context_slices else ["d", "h", "w"]
    entry = (
        {"slab": ["n", context_slices, *spatial]} if context_slices else {name: ["n", 1, *spatial]}
    )
    return network(nodes, entry, {"logits": ["n", len(names), *spatial]}, constants)


def classifier(*, size: tuple[int, int], stride: int, threshold: float) -> bytes:
    """Return a classifier of two classes: a bright patch, and its absence.

    Logits are GAIN x (brightest cell - threshold) and its negative; evidence for both is that of
    each cell of `stride` pixels.
    """
    rows, columns = size[0] // stride, size[1] // stride
    nodes = [
        helper.make_node(
            "AveragePool", ["image"], ["cells"], kernel_shape=[stride] * 2, strides=[stride] * 2
        ),
        helper.make_node("Sub", ["cells", "threshold"], ["above"]),
        helper.make_node("Mul", ["above", "gain"], ["bright"]),
        helper.make_node("Neg", ["bright"], ["dark"]),
        helper.make_node("Concat", ["bright", "dark"], ["evidence"], axis=1),
        helper.make_node("GlobalMaxPool", ["bright"], ["highest"]),
        helper.make_node("Flatten", ["highest"], ["one"]),
        helper.make_node("Neg", ["one"], ["other"]),
        helper.make_node("Concat", ["one", "other"], ["logits"], axis=1),
    ]
    return network(
        nodes,
        {"image": ["n", 1, *size]},
        {"logits": ["n", 2], "evidence": ["n", 2, rows, columns]},
        {"threshold": np.float32(threshold), "gain": np.float32(GAIN)},
    )


def not_a_number(name: str, shape: Shape, output: str) -> bytes:
    """Return a network whose every output value is NaN."""
    nodes = [
        helper.make_node("Mul", [name, "zero"], ["nothing"]),
        helper.make_node("Div", ["nothing", "zero"], [output]),
    ]
    return network(nodes, {name: shape}, {output: shape}, {"zero": np.float32(0)})


def twice_as_long(name: str, shape: Shape, output: str) -> bytes:
    """Return a network whose output is twice as long along the last axis as it declares."""
    nodes = [helper.make_node("Concat", [name, name], [output], axis=len(shape) - 1)]
    declared = [*shape[:-1], "any"]
    return network(nodes, {name: shape}, {output: declared})


def endless(name: str, shape: Shape, output: str) -> bytes:
    """Return a network that adds 0 to its input for ever."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("Add", ["held", "held_zero"], ["held_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("index", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", TensorProto.FLOAT, list(shape)),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held_out", TensorProto.FLOAT, list(shape)),
        ],
        [numpy_helper.from_array(np.float32(0).reshape(()), "held_zero")],
    )
    loop = helper.make_node("Loop", ["trips", "true", name], [output], body=body)
    constants = {"trips": np.array(np.iinfo(np.int64).max), "true": np.array(True)}
    return network([loop], {name: shape}, {output: shape}, constants)


def with_outside_data(content: bytes, location: str) -> bytes:
    """Return the network with its first constant stored in another file."""
    model = onnx.load_from_string(content)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model.SerializeToString()


def write(folder: Path, name: str, content: bytes) -> Path:
    """Write a network into a package's folder."""
    path = folder / name
    path.write_bytes(content)
    return path


def tensors(content: bytes) -> dict[str, Any]:
    """Return inputs, outputs and opset of a network as its manifest states them."""
    model = onnx.load_from_string(content)
    fixed = {tensor.name for tensor in model.graph.initializer}
    return {
        "opset": next(entry.version for entry in model.opset_import if entry.domain == ""),
        "inputs": [_stated(value) for value in model.graph.input if value.name not in fixed],
        "outputs": [_stated(value) for value in model.graph.output],
    }


def _stated(value: onnx.ValueInfoProto) -> dict[str, Any]:
    sizes = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    return {"name": value.name, "shape": sizes}
