"""Routing rules as data: which models run, how soon, and which destinations get the results.

The first rule whose conditions all hold decides. Without rules every applicable model runs with
routine priority, or the priority that the request carried, for every destination.
"""

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol

from service.core.settings import Condition, Destination, RoutingRule
from service.core.states import Priority

# What pydicom raises on values that are not what their element says.
_UNREADABLE = (
    ValueError, TypeError, OverflowError, LookupError, AttributeError, NotImplementedError,
    EOFError, struct.error,
)  # fmt: skip


class Keywords(Protocol):
    """A data set, as far as rules ask it."""

    def get(self, key: str, /) -> Any:
        """Return the value of a DICOM keyword, or None."""
        ...


Lookup = Callable[[str], tuple[str, ...]]

# Calling AE Title is not an attribute of the data set, but rules often name it.
CALLING_AE_TITLE = "CallingAETitle"
_MAX_PATTERN_CHARACTERS = 256


@dataclass(frozen=True)
class Route:
    """What the rules say about one study."""

    rule: str
    models: tuple[str, ...] | None
    priority: Priority
    destinations: tuple[str, ...]


def attributes(header_bytes: bytes, calling_ae_title: str) -> Lookup:
    """Return a lookup of attribute values by DICOM keyword, from a received header."""
    # Costs a second of every start when imported above, long before the first study comes.
    from pydicom import Dataset, dcmread  # noqa: PLC0415

    try:
        dataset: Dataset = dcmread(BytesIO(header_bytes), force=True, stop_before_pixels=True)
    except _UNREADABLE:
        # A character set that is none, for one: rules do not hold, and the study goes on.
        dataset = Dataset()

    def values(keyword: str) -> tuple[str, ...]:
        if keyword == CALLING_AE_TITLE:
            return (calling_ae_title,)
        return _values(dataset, keyword)

    return values


def route(
    rules: Sequence[RoutingRule], destinations: Sequence[Destination], lookup: Lookup
) -> Route:
    """Apply the first rule that holds, then each destination's own conditions."""
    rule = next((item for item in rules if holds_all(item.when, lookup)), None)
    if rule is None:
        name, models, priority, names = "default", None, requested_priority(lookup), None
    else:
        name, models, priority, names = rule.name, rule.models, rule.priority, rule.destinations
    chosen = tuple(
        destination.name
        for destination in destinations
        if (names is None or destination.name in names) and holds_all(destination.rules, lookup)
    )
    return Route(name, models, priority, chosen)


def requested_priority(lookup: Lookup) -> Priority:
    """Return Requested Procedure Priority (0040,1003) where the modality worklist gave one."""
    asked = " ".join(lookup("RequestedProcedurePriority")).upper()
    return Priority(asked) if asked in set(Priority) else Priority.ROUTINE


def holds_all(conditions: Sequence[Condition], lookup: Lookup) -> bool:
    """Return whether every condition holds."""
    return all(holds(condition, lookup(condition.keyword)) for condition in conditions)


def holds(condition: Condition, found: tuple[str, ...]) -> bool:
    """Return whether one condition holds for the values found; text is compared without case.

    >>> holds(Condition(keyword="Modality", value="ct"), ("CT",))
    True
    >>> holds(Condition(keyword="Modality", operator="in", value=("CR", "DX")), ("CT",))
    False
    """
    wanted = (condition.value,) if isinstance(condition.value, str) else condition.value
    have = {value.casefold() for value in found}
    want = {value.casefold() for value in wanted}
    match condition.operator:
        case "exists":
            return bool(found)
        case "equals" | "in":
            return bool(have & want)
        case "not_equals":
            return not have & want
        case "contains":
            return any(part in value for part in want for value in have)
        case "matches":
            return any(_matches(pattern, value) for pattern in wanted for value in found)


def _matches(pattern: str, value: str) -> bool:
    """Return whether a pattern with * and ? covers the value, as in a DICOM query."""
    if len(pattern) > _MAX_PATTERN_CHARACTERS:
        return False
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, value, re.IGNORECASE) is not None


def _values(dataset: Keywords, keyword: str) -> tuple[str, ...]:
    try:
        value = dataset.get(keyword)
    except _UNREADABLE:
        return ()
    if value is None or value == "":
        return ()
    several = isinstance(value, list | tuple) or hasattr(value, "append")
    return tuple(str(item).strip() for item in value) if several else (str(value).strip(),)
