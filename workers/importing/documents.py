"""JSON documents of foreign packages: untrusted, so bounded in size and never more than data."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.core.errors import InvalidModel
from workers.inference.files import regular_bytes

_LIMIT_BYTES = 8 << 20


class Document:
    """A JSON object whose parts are read with one clear line for what is not as it should be."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self._values, self._place = values, place

    @classmethod
    def read(cls, folder: Path, name: str) -> "Document":
        """Read a document of a folder.

        Raises
        ------
        InvalidModel
            ``SOURCE`` when it is not a JSON object; ``MODEL_FILE`` when it is no regular file.
        """
        content = regular_bytes(folder, name, limit_bytes=_LIMIT_BYTES)
        place = f"{folder.name}: {name}"
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InvalidModel("SOURCE", f"{place}: no JSON: {error}") from error
        if not isinstance(values, dict):
            raise InvalidModel("SOURCE", f"{place}: found a list or value, allowed an object")
        return cls(values, place)

    @property
    def values(self) -> Mapping[str, Any]:
        """The object itself."""
        return self._values

    def part(self, *path: str) -> "Document":
        """Return an inner object; an empty one where there is none."""
        values: Any = self._values
        for key in path:
            values = values.get(key) if isinstance(values, Mapping) else None
        place = f"{self._place}: {'.'.join(path)}"
        return Document(values if isinstance(values, Mapping) else {}, place)

    def text(self, key: str, default: str = "") -> str:
        """Return a text, or the default where there is none."""
        value = self._values.get(key)
        return value.strip() if isinstance(value, str) and value.strip() else default

    def numbers(self, key: str, count: int) -> list[float] | None:
        """Return that many numbers, or None where there is nothing.

        Raises
        ------
        InvalidModel
            ``SOURCE`` when there is something else.
        """
        value = self._values.get(key)
        if value is None:
            return None
        listed = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
        fits = len(listed) == count and all(
            isinstance(item, int | float) and not isinstance(item, bool) for item in listed
        )
        if not fits:
            raise self.wrong(key, f"{count} numbers")
        return [float(item) for item in listed]

    def wrong(self, key: str, allowed: str) -> InvalidModel:
        """Return the error for a part that is not as it should be."""
        found = repr(self._values.get(key, "nothing"))[:80]
        return InvalidModel("SOURCE", f"{self._place}: {key}: found {found}, allowed {allowed}")
