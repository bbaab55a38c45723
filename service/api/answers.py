"""Answers in JSON: written by orjson from frozen dataclasses, never kept by caches."""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def to_json(content: object) -> bytes:
    """Return dataclasses, pydantic models, times and plain values as JSON."""
    return orjson.dumps(content, default=_plain, option=_OPTIONS)


def answer(
    content: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON answer."""
    return Response(
        to_json(content),
        status_code=status,
        media_type="application/json",
        headers=None if headers is None else dict(headers),
    )


def _plain(value: Any) -> object:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
