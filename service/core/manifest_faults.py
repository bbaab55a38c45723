"""One clear line for a manifest that does not validate: field, found, allowed."""

from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

Place = tuple[int | str, ...]


def first_fault(error: ValidationError, root: type[BaseModel]) -> str:
    """Return field, found and allowed of the first fault as one line.

    A discriminated union puts its tag into the place of a fault; the tag is left out of the line,
    for it is no key of the file.
    """
    # A misspelt key shows up twice, as one missing and one unknown; the unknown one helps.
    faults = error.errors(include_url=False)
    fault = next((item for item in faults if item["type"] == "extra_forbidden"), faults[0])
    sections, keys = _walk(root, fault["loc"])
    line = f"{'.'.join(keys)}: {_complaint(fault, sections[-1])}" if keys else _stated(fault)
    return " ".join(line.split())


def _complaint(fault: ErrorDetails, section: type[BaseModel]) -> str:
    """Return what was found and what is allowed at one place."""
    if fault["type"] == "extra_forbidden":
        return f"found an unknown field, allowed {', '.join(section.model_fields)}"
    if fault["type"] == "missing":
        return f"found nothing, allowed {_allowed(section, str(fault['loc'][-1]))}"
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):
        return _stated(fault)
    found = repr(fault["input"])
    message = _stated(fault).removeprefix("Input should be ")
    return f"found {found[:80]}{'...' if len(found) > 80 else ''}, allowed {message}"


def _stated(fault: ErrorDetails) -> str:
    return fault["msg"].removeprefix("Value error, ")


def _walk(root: type[BaseModel], place: Place) -> tuple[list[type[BaseModel]], list[str]]:
    """Return the sections that `place` leads through, and its keys without union tags."""
    sections, keys = [root], []
    for index, part in enumerate(place):
        section = sections[-1]
        members = (
            _sections_in(section.model_fields[part].annotation)
            if (isinstance(part, str) and part in section.model_fields)
            else []
        )
        if len(members) > 1 and index + 1 < len(place):
            tagged = [item for item in members if _tag(item) == place[index + 1]]
            members = tagged or members
        elif index and isinstance(part, str) and part == _tag(section):
            continue
        keys.append(str(part))
        if members and index + 1 < len(place):
            sections.append(members[0])
    return sections, keys


def _tag(section: type[BaseModel]) -> Any:
    field = section.model_fields.get("kind")
    return field.default if field else None


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections named anywhere in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _sections_in(part)]


def _allowed(section: type[BaseModel], name: str) -> str:
    """Return in a few words what a missing field may hold."""
    field = section.model_fields.get(name)
    if field is None or field.annotation is None:
        return "a value"
    schema = TypeAdapter[Any](field.annotation).json_schema()
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    words = {"object": "a table", "array": "a list", "string": "text", "integer": "a whole number"}
    kind = str(schema.get("type", "a table"))
    return words.get(kind, f"a {kind}")
