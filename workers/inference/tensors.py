"""What an ONNX file takes and gives, read from its bytes before the runtime sees them.

Field numbers are those of ``onnx.proto``; see `workers.inference.graph` for why it is done by hand.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from service.core.errors import InvalidModel
from workers.inference.graph import message_fields

_GRAPH, _METADATA = 7, 14
_INITIALIZER, _INPUT, _OUTPUT = 5, 11, 12
_TENSOR_NAME = 8
_FLOAT = 1
_RANK_LIMIT = 8


@dataclass(frozen=True)
class Port:
    """An input or output: its name, its sizes with 0 for any, and whether it is float32."""

    name: str
    shape: tuple[int, ...]
    is_float32: bool


@dataclass(frozen=True)
class Ports:
    """Inputs (without constants), outputs, and the file's notes by key."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    notes: dict[str, str]


def read_ports(content: bytes) -> Ports:
    """Read the graph's inputs and outputs.

    Raises
    ------
    InvalidModel
        ``MODEL_FILE`` when the bytes are not an ONNX model.
    """
    inputs: list[Port] = []
    outputs: list[Port] = []
    constants: set[str] = set()
    notes: dict[str, str] = {}
    try:
        for number, value in _messages(memoryview(content)):
            if number == _METADATA:
                entry = {k: bytes(v).decode() for k, v in _messages(value)}
                notes[entry.get(1, "")] = entry.get(2, "")
            elif number == _GRAPH:
                for part, message in _messages(value):
                    if part == _INPUT:
                        inputs.append(_port(message))
                    elif part == _OUTPUT:
                        outputs.append(_port(message))
                    elif part == _INITIALIZER:
                        constants.add(_text(message, _TENSOR_NAME))
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise InvalidModel("MODEL_FILE", f"not an ONNX model: {error}") from error
    wanted = tuple(port for port in inputs if port.name not in constants)
    return Ports(wanted, tuple(outputs), notes)


def _messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    for number, value in message_fields(message):
        if isinstance(value, memoryview):
            yield number, value


def _text(message: memoryview, field: int) -> str:
    return next((bytes(v).decode() for n, v in _messages(message) if n == field), "")


def _port(message: memoryview) -> Port:
    """Read a ValueInfoProto: name (1), type (2) with its tensor type (1)."""
    kind, shape = 0, tuple[int, ...]()
    for number, value in _messages(message):
        if number == 2:
            for part, tensor in _messages(value):
                if part == 1:
                    kind, shape = _tensor_type(tensor)
    return Port(_text(message, 1), shape, kind == _FLOAT)


def _tensor_type(message: memoryview) -> tuple[int, tuple[int, ...]]:
    kind, sizes = 0, list[int]()
    for number, value in message_fields(message):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 2 and isinstance(value, memoryview):
            sizes = [_size(dimension) for part, dimension in _messages(value) if part == 1]
    if len(sizes) > _RANK_LIMIT:
        raise ValueError(f"a tensor of {len(sizes)} axes")
    return kind, tuple(sizes)


def _size(dimension: memoryview) -> int:
    """Return a dimension's size; a name or nothing stands for any."""
    known = (value for number, value in message_fields(dimension) if number == 1)
    size = next((value for value in known if isinstance(value, int)), 0)
    return size if 0 <= size < 1 << 31 else 0
