"""Twenty-five hostile model files: each is refused with its reason, and nothing outside is read."""

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx as onnx_library
import pytest
from onnx import TensorProto, helper, load_from_string, numpy_helper

from service.core.errors import ContractViolation, InvalidModel
from service.core.manifest_input import Network
from tests.builders import onnx
from tests.builders.packages import network_entry
from workers.inference import files
from workers.inference.device import CPU
from workers.inference.probe import probe_networks
from workers.inference.session import open_session

ROW = ["n", 1, "w"]
NAME = "segmenter.onnx"


def doubling() -> bytes:
    nodes = [helper.make_node("Mul", ["x", "two"], ["y"])]
    return onnx.network(nodes, {"x": ROW}, {"y": ROW}, {"two": np.float32(2)})


def described(content: bytes, **fields: object) -> Network:
    """Return the manifest's entry for these bytes, as an importer would write it."""
    entry = network_entry("segmenter", doubling())
    entry["sha256"] = hashlib.sha256(content).hexdigest()
    return Network.model_validate(entry | fields)


def external(location: str) -> Callable[[], bytes]:
    return lambda: onnx.with_outside_data(doubling(), location)


def changed(change: Callable[[onnx_library.ModelProto], None]) -> Callable[[], bytes]:
    def made() -> bytes:
        model = load_from_string(doubling())
        change(model)
        return model.SerializeToString()

    return made


def outside(tensor: TensorProto) -> TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="canary.bin")
    return tensor


def sparse_outside(model: onnx_library.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.dims.extend([4])
    sparse.values.CopyFrom(outside(numpy_helper.from_array(np.ones(1, np.float32), "s")))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))


def attribute_outside(model: onnx_library.ModelProto) -> None:
    value = outside(numpy_helper.from_array(np.ones(1, np.float32), "c"))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=value))


def subgraph(change: Callable[[onnx_library.GraphProto], None]) -> Callable[[], bytes]:
    def made() -> bytes:
        model = load_from_string(onnx.endless("x", [1, 4], "y"))
        change(model.graph.node[0].attribute[0].g)
        return model.SerializeToString()

    return made


def outside_in_subgraph(graph: onnx_library.GraphProto) -> None:
    outside(graph.initializer[0])


def foreign_in_subgraph(graph: onnx_library.GraphProto) -> None:
    graph.node[1].domain = "com.example"


def foreign(model: onnx_library.ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.add(domain="com.microsoft", version=1)


def foreign_function(model: onnx_library.ModelProto) -> None:
    function = model.functions.add()
    function.name, function.domain = "Mine", "com.example"
    function.node.add(op_type="Run", domain="com.example")
    model.opset_import.add(domain="com.example", version=1)


def deep() -> bytes:
    """Return graphs within graphs, far deeper than any network."""
    graph = b"\x0a\x02\x22\x00"
    for _ in range(200):
        attribute = b"\x32" + _length(graph) + graph
        node = b"\x2a" + _length(attribute) + attribute
        graph = b"\x0a" + _length(node) + node
    return doubling() + b"\x3a" + _length(graph) + graph


def _length(content: bytes) -> bytes:
    size, found = len(content), b""
    while size > 0x7F:
        found += bytes([size & 0x7F | 0x80])
        size >>= 7
    return found + bytes([size])


CONTENTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "M01 empty": (lambda: b"", "MODEL_FILE"),
    "M02 garbage": (lambda: b"GIF89a" + bytes(range(256)), "MODEL_FILE"),
    "M03 truncated": (lambda: doubling()[:-7], "MODEL_FILE"),
    "M04 a pickle": (lambda: pickle.dumps({"weights": print}), "MODEL_FILE"),
    "M05 length beyond the file": (lambda: b"\x3a\xff\xff\xff\x7f", "MODEL_FILE"),
    "M06 nested too deeply": (deep, "MODEL_FILE"),
    "M07 no operator set": (changed(lambda m: m.ClearField("opset_import")), "MODEL_FILE"),
    "M08 data beside the file": (external("canary.bin"), "MODEL_GRAPH"),
    "M09 data above the folder": (external("../canary.bin"), "MODEL_GRAPH"),
    "M10 data at an absolute path": (external("/etc/passwd"), "MODEL_GRAPH"),
    "M11 data of a sparse tensor": (changed(sparse_outside), "MODEL_GRAPH"),
    "M12 data of an attribute": (changed(attribute_outside), "MODEL_GRAPH"),
    "M13 data inside of a loop": (subgraph(outside_in_subgraph), "MODEL_GRAPH"),
    "M14 somebody's operator": (changed(foreign), "MODEL_GRAPH"),
    "M15 somebody's function": (changed(foreign_function), "MODEL_GRAPH"),
    "M16 somebody's operator in a loop": (subgraph(foreign_in_subgraph), "MODEL_GRAPH"),
}


@pytest.mark.faults(number=28)
@pytest.mark.parametrize("case", CONTENTS)
def test_a_hostile_file_is_refused_before_the_runtime_sees_it(tmp_path: Path, case: str) -> None:
    make, reason = CONTENTS[case]
    content = make()
    folder = tmp_path / "package"
    folder.mkdir()
    for place in (folder, tmp_path):
        (place / "canary.bin").write_bytes(np.float32(2).tobytes())
    onnx.write(folder, NAME, content)
    with pytest.raises(InvalidModel) as refused:
        open_session(folder, described(content), CPU)
    assert refused.value.reason == reason
    assert "\n" not in str(refused.value)


PLACES: dict[str, Callable[[Path, Path], None]] = {
    "M17 symbolic link": lambda place, other: place.symlink_to(other),
    "M18 hard link": lambda place, other: place.hardlink_to(other),
    "M19 named pipe": lambda place, other: os.mkfifo(place),
    "M20 folder": lambda place, other: place.mkdir(),
}


@pytest.mark.faults(number=28)
@pytest.mark.parametrize("case", PLACES)
def test_what_is_no_file_of_its_own_is_not_read(tmp_path: Path, case: str) -> None:
    folder, other = tmp_path / "package", tmp_path / "other.onnx"
    folder.mkdir()
    other.write_bytes(doubling())
    PLACES[case](folder / NAME, other)
    with pytest.raises(InvalidModel) as refused:
        open_session(folder, described(doubling()), CPU)
    assert refused.value.reason == "MODEL_FILE"


@pytest.mark.faults(number=28)
@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "a/../../outside.onnx"])
def test_m21_a_name_does_not_lead_out_of_the_package(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    onnx.write(tmp_path, "outside.onnx", doubling())
    with pytest.raises(ValueError, match=r"(?i)outside|pattern|link"):
        open_session(folder, described(doubling(), file=name), CPU)


@pytest.mark.faults(number=28)
def test_m22_a_file_beyond_the_limit_is_not_read_to_its_end(tmp_path: Path, monkeypatch) -> None:
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(files.FILE_BYTES_LIMIT + 1)
    monkeypatch.setattr(files, "FILE_BYTES_LIMIT", 1 << 20)
    with pytest.raises(InvalidModel, match="found more than 1048576 bytes") as refused:
        files.pinned_bytes(tmp_path, NAME, sha256="0" * 64, limit_bytes=1 << 20)
    assert refused.value.reason == "MODEL_FILE"


@pytest.mark.faults(number=28)
def test_m23_other_bytes_than_pinned_are_refused(tmp_path: Path) -> None:
    onnx.write(tmp_path, NAME, doubling() + b"\0")
    with pytest.raises(InvalidModel) as refused:
        open_session(tmp_path, described(doubling()), CPU)
    assert refused.value.reason == "DIGEST"


@pytest.mark.faults(number=28)
def test_m24_a_network_that_eats_memory_or_time_ends_a_child_alone(tmp_path: Path) -> None:
    content = onnx.endless("x", [1, 4], "y")
    onnx.write(tmp_path, NAME, content)
    endless = Network.model_validate(network_entry("segmenter", content, time_limit_s=0.5))
    with pytest.raises(InvalidModel) as refused:
        probe_networks(tmp_path, [endless])
    assert refused.value.reason == "MODEL_TIMEOUT"


@pytest.mark.faults(number=28)
@pytest.mark.faults(number=29)
def test_m25_a_network_that_says_nothing_sensible_is_not_believed(tmp_path: Path) -> None:
    content = onnx.not_a_number("x", ROW, "y")
    onnx.write(tmp_path, NAME, content)
    session = open_session(
        tmp_path, Network.model_validate(network_entry("segmenter", content)), CPU
    )
    with pytest.raises(ContractViolation) as broken:
        session.run({"x": np.ones((1, 1, 4), np.float32)})
    assert broken.value.reason == "MODEL_OUTPUT"
