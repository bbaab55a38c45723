"""The API's reference as a page: OpenAPI read once, in the words that people look for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_METHODS: Final = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Field:
    """A parameter, or a field of a body or an answer."""

    name: str
    kind: str
    about: str
    needed: bool = False
    place: str = ""


@dataclass(frozen=True)
class Answer:
    """One way in which an operation answers."""

    status: str
    about: str
    schema: str
    media_types: Sequence[str]


@dataclass(frozen=True)
class Operation:
    """One operation."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    parameters: Sequence[Field]
    body: str
    body_types: Sequence[str]
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Group:
    """The operations of one tag."""

    name: str
    about: str
    operations: Sequence[Operation]


@dataclass(frozen=True)
class Shape:
    """A schema with its fields, or its values where it is a list of those."""

    name: str
    about: str
    fields: Sequence[Field]
    values: Sequence[str]


def groups(document: Mapping[str, Any]) -> list[Group]:
    """Return the operations of an OpenAPI document by tag, in the document's order."""
    gathered: dict[str, list[Operation]] = {tag["name"]: [] for tag in document.get("tags", ())}
    about = {tag["name"]: tag.get("description", "") for tag in document.get("tags", ())}
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                said = methods[method]
                tag = (said.get("tags") or ["other"])[0]
                gathered.setdefault(tag, []).append(_operation(method, path, said))
    return [Group(name, about.get(name, ""), found) for name, found in gathered.items() if found]


def shapes(document: Mapping[str, Any]) -> list[Shape]:
    """Return the schemas of an OpenAPI document by name."""
    schemas = document.get("components", {}).get("schemas", {})
    return [_shape(name, schemas[name]) for name in sorted(schemas)]


def _operation(method: str, path: str, said: Mapping[str, Any]) -> Operation:
    content = said.get("requestBody", {}).get("content", {})
    return Operation(
        id=said.get("operationId", f"{method}{path}"),
        method=method.upper(),
        path=path,
        summary=said.get("summary", ""),
        description=said.get("description", ""),
        parameters=[_parameter(one) for one in said.get("parameters", ())],
        body=next((kind_of(one.get("schema", {})) for one in content.values()), ""),
        body_types=list(content),
        answers=[_answer(status, one) for status, one in said.get("responses", {}).items()],
    )


def _parameter(said: Mapping[str, Any]) -> Field:
    schema = said.get("schema", {})
    about = said.get("description") or schema.get("description", "")
    needed = bool(said.get("required"))
    return Field(said["name"], kind_of(schema), about, needed, said.get("in", ""))


def _answer(status: str, said: Mapping[str, Any]) -> Answer:
    content = said.get("content", {})
    schema = next((kind_of(one.get("schema", {})) for one in content.values()), "")
    return Answer(status, said.get("description", ""), schema, list(content))


def _shape(name: str, said: Mapping[str, Any]) -> Shape:
    needed = set(said.get("required", ()))
    fields = [
        Field(field, kind_of(one), one.get("description", ""), field in needed)
        for field, one in said.get("properties", {}).items()
    ]
    return Shape(name, said.get("description", ""), fields, [str(v) for v in said.get("enum", ())])


def kind_of(schema: Mapping[str, Any]) -> str:
    """Return what a schema takes, in a few words.

    >>> kind_of({"type": "array", "items": {"$ref": "#/components/schemas/JobItem"}})
    'list of JobItem'
    >>> kind_of({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})
    'integer or null'
    """
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    several = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if several:
        return " or ".join(dict.fromkeys(kind_of(one) for one in several))
    if schema.get("type") == "array":
        return f"list of {kind_of(schema.get('items', {})) or 'anything'}"
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map of {kind_of(schema['additionalProperties']) or 'anything'}"
    kind = schema.get("type", "")
    shown = " or ".join(kind) if isinstance(kind, list) else str(kind)
    return f"{shown} ({schema['format']})" if schema.get("format") else shown
