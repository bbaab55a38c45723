"""What an ONNX file would make the runtime do, read from its bytes before the runtime sees them.

The file is untrusted. Only the fields that matter are walked, with protobuf's wire format decoded
by hand: the ``onnx`` package is not a dependency of the product, and a full parser is more surface
than four message types need. Field numbers are those of ``onnx.proto``, which never change.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from service.core.errors import InvalidModel

_DEPTH_LIMIT = 32
_DEFAULT_DOMAINS = frozenset({"", "ai.onnx"})

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Which fields of a message hold further messages that can carry nodes or tensors.
_MODEL = {7: "graph", 25: "function"}
_CHILDREN = {
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_NODE_DOMAIN = 7


@dataclass
class Graph:
    """What was met on the walk: operator sets, their domains, whether data lies elsewhere."""

    opset_by_domain: dict[str, int] = field(default_factory=dict)
    domains: set[str] = field(default_factory=set)
    external_data: bool = False

    @property
    def opset(self) -> int:
        """Version of the default operator set, 0 when the file states none."""
        return max(self.opset_by_domain.get("", 0), self.opset_by_domain.get("ai.onnx", 0))


def read_graph(content: bytes) -> Graph:
    """Walk an ONNX file.

    Raises
    ------
    InvalidModel
        ``MODEL_FILE`` when the bytes are not an ONNX model or are nested too deeply.
    """
    graph = Graph()
    try:
        for number, value in message_fields(memoryview(content)):
            if number == 8 and isinstance(value, memoryview):
                domain, version = _operator_set(value)
                graph.opset_by_domain[domain] = version
            elif number in _MODEL and isinstance(value, memoryview):
                _walk(value, _MODEL[number], graph, depth=0)
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise InvalidModel("MODEL_FILE", f"not an ONNX model: {error}") from error
    if not graph.opset_by_domain:
        raise InvalidModel("MODEL_FILE", "not an ONNX model: no operator set")
    return graph


def foreign_domains(graph: Graph) -> tuple[str, ...]:
    """Return the operator domains beyond ONNX's own, which could bind code of somebody else."""
    return tuple(sorted((graph.domains | set(graph.opset_by_domain)) - _DEFAULT_DOMAINS))


def _walk(message: memoryview, kind: str, graph: Graph, *, depth: int) -> None:
    if depth > _DEPTH_LIMIT:
        raise ValueError(f"nested more than {_DEPTH_LIMIT} deep")
    children = _CHILDREN[kind]
    for number, value in message_fields(message):
        if kind == "tensor":
            graph.external_data |= number == _TENSOR_EXTERNAL_DATA
            graph.external_data |= number == _TENSOR_DATA_LOCATION and value == 1
        elif isinstance(value, memoryview):
            if number in children:
                _walk(value, children[number], graph, depth=depth + 1)
            elif kind == "node" and number == _NODE_DOMAIN:
                graph.domains.add(bytes(value).decode())


def _operator_set(message: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for number, value in message_fields(message):
        if number == 1 and isinstance(value, memoryview):
            domain = bytes(value).decode()
        elif number == 2 and isinstance(value, int):
            version = value
    return domain, version


def message_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of one protobuf message, in order."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, position = _varint(message, position)
        elif wire_type in (_FIXED64, _FIXED32):
            length = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if length > len(message) - position:
            raise ValueError("truncated")
        yield number, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("number too long")
