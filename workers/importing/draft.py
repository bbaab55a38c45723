"""What a source says of itself, as the beginning of a manifest.

A draft holds the sections that are known, laid out as in ``manifest.toml``; answers given by hand
are laid over it (`merged`), and what is still missing then gets its default or a question.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Sections = dict[str, Any]


@dataclass(frozen=True)
class Draft:
    """A network's bytes, the sections of its manifest that are known, and remarks for the card."""

    source: str
    network: bytes
    sections: Sections
    remarks: tuple[str, ...] = field(default=())


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Sections:
    """Return `base` with `over` laid upon it: tables are joined, everything else is replaced.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    joined = dict(base)
    for key, value in over.items():
        old = joined.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            joined[key] = merged(old, value)
        else:
            joined[key] = value
    return joined
