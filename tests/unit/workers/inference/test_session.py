"""Networks are opened by digest and end by their deadline with what they promised."""

import hashlib
import os
import time
from contextlib import suppress

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, load_from_string

from service.core.errors import ContractViolation, InvalidModel, InvalidSettings
from service.core.manifest_input import Network
from tests.builders import onnx, packages
from workers.inference.device import CPU, IDENTITY, Device, choose_device
from workers.inference.graph import foreign_domains, read_graph
from workers.inference.probe import probe_networks
from workers.inference.session import open_session

ROW = ["n", 1, "w"]


def network_of(content: bytes, **fields) -> Network:
    return Network.model_validate(packages.network_entry("segmenter", content, **fields))


def opened(folder, content: bytes, **fields):
    onnx.write(folder, "segmenter.onnx", content)
    return open_session(folder, network_of(content, **fields), CPU, threads=1)


def doubling() -> bytes:
    nodes = [helper.make_node("Mul", ["x", "two"], ["y"])]
    return onnx.network(nodes, {"x": ROW}, {"y": ROW}, {"two": np.float32(2)})


def test_a_network_runs_by_the_names_of_the_manifest(tmp_path):
    content = doubling()
    entry = packages.network_entry("segmenter", content)
    entry["inputs"][0]["meaning"] = "volume"
    entry["outputs"][0]["meaning"] = "logits"
    onnx.write(tmp_path, "segmenter.onnx", content)
    session = open_session(tmp_path, Network.model_validate(entry), CPU, threads=1)
    said = session.run({"volume": np.array([[[1.0, 2.5]]], np.float32)})
    assert said["logits"].tolist() == [[[2.0, 5.0]]]
    assert session.runtime.get_providers()[0] == "CPUExecutionProvider"


@pytest.mark.faults(number=28)
def test_a_changed_network_is_refused_by_its_digest(tmp_path):
    content = doubling()
    onnx.write(tmp_path, "segmenter.onnx", content + b"\x00")
    with pytest.raises(InvalidModel, match="sha256: found") as refused:
        open_session(tmp_path, network_of(content), CPU)
    assert refused.value.reason == "DIGEST"


@pytest.mark.faults(number=28)
@pytest.mark.parametrize("how", ["symbolic", "hard", "pipe", "folder", "missing"])
def test_only_a_regular_file_of_its_own_is_read(tmp_path, how):
    content = doubling()
    folder, other = tmp_path / "package", tmp_path / "elsewhere.onnx"
    folder.mkdir()
    other.write_bytes(content)
    place = folder / "segmenter.onnx"
    make = {
        "symbolic": lambda: place.symlink_to(other),
        "hard": lambda: place.hardlink_to(other),
        "pipe": lambda: os.mkfifo(place),
        "folder": place.mkdir,
        "missing": lambda: None,
    }
    make[how]()
    with pytest.raises(InvalidModel, match=r"package: segmenter.onnx: ") as refused:
        open_session(folder, network_of(content), CPU)
    assert refused.value.reason == "MODEL_FILE"


@pytest.mark.faults(number=28)
def test_a_linked_folder_does_not_lead_out_of_the_package(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "package").mkdir()
    onnx.write(tmp_path / "outside", "segmenter.onnx", doubling())
    (tmp_path / "package" / "nets").symlink_to(tmp_path / "outside")
    network = network_of(doubling(), file="nets/segmenter.onnx")
    with pytest.raises(InvalidModel, match="lies outside the package"):
        open_session(tmp_path / "package", network, CPU)


@pytest.mark.faults(number=28)
def test_tensors_in_another_file_are_refused_before_the_runtime_sees_them(tmp_path):
    content = onnx.with_outside_data(doubling(), "secrets.bin")
    (tmp_path / "secrets.bin").write_bytes(b"\x00\x00\x00\x40")
    with pytest.raises(InvalidModel, match="found tensors outside the file"):
        opened(tmp_path, content)


@pytest.mark.faults(number=28)
def test_operators_of_somebody_else_are_refused(tmp_path):
    nodes = [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")]
    content = onnx.network(nodes, {"x": ROW}, {"y": ROW}, domains={"com.microsoft": 1})
    with pytest.raises(InvalidModel, match=r"found operators of com.microsoft, allowed ONNX's own"):
        opened(tmp_path, content)


def test_another_operator_set_than_promised_is_refused(tmp_path):
    with pytest.raises(InvalidModel, match=r"opset: found 18, allowed 17 \(manifest\)"):
        opened(tmp_path, doubling(), opset=17)


def test_tensors_other_than_promised_are_refused(tmp_path):
    other = [{"name": "z", "shape": [0, 1, 0]}]
    with pytest.raises(InvalidModel, match="inputs: found x, allowed z"):
        opened(tmp_path, doubling(), inputs=other)
    with pytest.raises(InvalidModel, match=r"x: found tensor\(float\) \[0, 1, 0\], allowed"):
        opened(tmp_path, doubling(), inputs=[{"name": "x", "shape": [0, 3, 0]}])


@pytest.mark.faults(number=28)
@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"\x08\x09" + b"\xff" * 40, b"\x3a\xff\xff\x7f"]
)
def test_bytes_that_are_no_network_are_refused(tmp_path, content):
    entry = packages.network_entry("segmenter", doubling())
    entry["sha256"] = hashlib.sha256(content).hexdigest()
    onnx.write(tmp_path, "segmenter.onnx", content)
    with pytest.raises(InvalidModel) as refused:
        open_session(tmp_path, Network.model_validate(entry), CPU)
    assert refused.value.reason == "MODEL_FILE"


@given(st.binary(max_size=200) | st.integers(0, 200).map(lambda cut: doubling()[:cut]))
def test_no_bytes_bring_down_the_walk_over_the_graph(content):
    with suppress(InvalidModel):
        read_graph(content)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_flipped_byte_brings_down_the_walk_over_the_graph(place, value):
    content = bytearray(onnx.detector(threshold=0.5, diameter_mm=8))
    content[place % len(content)] = value
    with suppress(InvalidModel):
        read_graph(bytes(content))


def test_foreign_operators_inside_of_loops_are_seen():
    model = load_from_string(onnx.endless("x", [1, 4], "y"))
    assert foreign_domains(read_graph(model.SerializeToString())) == ()
    model.graph.node[0].attribute[0].g.node[1].domain = "com.example"
    graph = read_graph(model.SerializeToString())
    assert foreign_domains(graph) == ("com.example",)
    assert graph.opset == onnx.OPSET


@pytest.mark.faults(number=29)
def test_not_a_number_breaks_the_contract(tmp_path):
    session = opened(tmp_path, onnx.not_a_number("x", ROW, "y"))
    with pytest.raises(ContractViolation, match="y: found NaN or Inf") as broken:
        session.run({"x": np.ones((1, 1, 4), np.float32)})
    assert broken.value.reason == "MODEL_OUTPUT"


@pytest.mark.faults(number=29)
def test_another_shape_than_promised_breaks_the_contract(tmp_path):
    content = onnx.twice_as_long("x", ["n", "w"], "y")
    promised = [{"name": "y", "shape": [0, 4]}]
    onnx.write(tmp_path, "segmenter.onnx", content)
    session = open_session(tmp_path, network_of(content, outputs=promised), CPU)
    with pytest.raises(
        ContractViolation, match=r"found float32 \(1, 8\), allowed float32 \(0, 4\)"
    ):
        session.run({"x": np.ones((1, 4), np.float32)})


@pytest.mark.faults(number=25)
def test_an_endless_network_is_ended_at_its_deadline(tmp_path):
    session = opened(tmp_path, onnx.endless("x", [1, 4], "y"), time_limit_s=0.5)
    started = time.monotonic()
    with pytest.raises(ContractViolation, match=r"did not end within 0.5 s") as broken:
        session.run({"x": np.ones((1, 4), np.float32)})
    assert broken.value.reason == "MODEL_TIMEOUT"
    assert time.monotonic() - started < 5


def test_a_session_works_on_after_a_run_that_was_ended(tmp_path):
    session = opened(tmp_path, doubling(), time_limit_s=5)
    with pytest.raises(ContractViolation) as broken:
        session.run({"x": np.ones((2, 2), np.float32)})
    assert broken.value.reason == "MODEL_RUN"
    assert session.run({"x": np.ones((1, 1, 1), np.float32)})["y"].tolist() == [[[2.0]]]


@pytest.mark.faults(number=28)
def test_a_child_process_finds_an_endless_network_first(tmp_path):
    content = onnx.endless("x", [1, 4], "y")
    onnx.write(tmp_path, "segmenter.onnx", content)
    with pytest.raises(InvalidModel) as refused:
        probe_networks(tmp_path, [network_of(content, time_limit_s=0.5)])
    assert refused.value.reason == "MODEL_TIMEOUT"
    with pytest.raises(InvalidModel, match="did not load and run within 2 s"):
        probe_networks(tmp_path, [network_of(content, time_limit_s=60)], time_limit_s=2)


@pytest.mark.faults(number=28)
def test_a_child_process_ends_before_a_network_eats_the_memory(tmp_path):
    gigabytes = 200
    nodes = [
        helper.make_node("Expand", ["x", "size"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["y"], keepdims=1),
    ]
    size = np.array([gigabytes << 6, 1 << 11, 1 << 11], np.int64)
    content = onnx.network(nodes, {"x": [1, 1, 1]}, {"y": ["a", "b", "c"]}, {"size": size})
    onnx.write(tmp_path, "segmenter.onnx", content)
    with pytest.raises(InvalidModel) as refused:
        probe_networks(tmp_path, [network_of(content, memory_limit_mb=128)])
    assert refused.value.reason in ("MODEL_RUN", "MODEL_LIMITS", "MODEL_LOAD")


def test_the_network_that_tells_where_a_session_lands_runs():
    session = ort.InferenceSession(IDENTITY, providers=CPU.providers())
    (said,) = session.run(None, {"x": np.array([3.5], np.float32)})
    assert said.tolist() == [3.5]


def test_a_device_is_chosen_by_name_or_refused():
    assert choose_device("cpu") is CPU
    with pytest.raises(InvalidSettings, match="found 'gpu', allowed auto, cpu, cuda:N"):
        choose_device("gpu")


@pytest.mark.faults(number=27)
def test_cuda_that_does_not_start_is_refused_and_auto_settles_for_the_cpu(monkeypatch):
    if choose_device("auto").provider != CPU.provider:
        monkeypatch.setattr("workers.inference.device._starts", lambda device: False)
    assert choose_device("auto") is CPU
    with pytest.raises(InvalidSettings, match="found cuda:0, but CUDA does not start here"):
        choose_device("cuda:0")


def test_a_session_that_landed_elsewhere_is_refused(tmp_path):
    if choose_device("auto").provider != CPU.provider:
        pytest.skip("CUDA starts here")
    content = doubling()
    onnx.write(tmp_path, "segmenter.onnx", content)
    cuda = Device("cuda:0", "CUDAExecutionProvider")
    if cuda.provider not in ort.get_available_providers():
        pytest.skip("this build of the runtime has no CUDA")
    with pytest.raises(InvalidModel, match="allowed CUDAExecutionProvider"):
        open_session(tmp_path, network_of(content), cuda)
