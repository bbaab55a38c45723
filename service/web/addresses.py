"""The query of the worklist page lives in its address: read from it, and written for links."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from pydantic import ValidationError

from service.records.worklist_query import WorklistQuery

_SEVERAL: Final = frozenset({"modality", "state", "priority", "label", "reading"})


def asked_in(parameters: Iterable[tuple[str, str]]) -> tuple[WorklistQuery, dict[str, str]]:
    """Return the query that an address asks, without what is wrong in it, and what that is.

    A reader who follows an old or mistyped link gets a list and is told which part was left out.
    """
    given: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in parameters:
        given[name].append(value)
    values: dict[str, Any] = {
        name: found if name in _SEVERAL else found[-1] for name, found in given.items()
    }
    try:
        return WorklistQuery.model_validate(values), {}
    except ValidationError as error:
        faults = {_field_of(item["loc"]): str(item["msg"]) for item in error.errors()}
    sound = {name: value for name, value in values.items() if name not in faults}
    try:
        return WorklistQuery.model_validate(sound), faults
    except ValidationError:
        return WorklistQuery(), faults


def address(asked: WorklistQuery, cursor: str | None) -> str:
    """Return the address of a page of the same list."""
    values = asked.model_dump(mode="json", exclude_defaults=True, exclude={"cursor"})
    if cursor is not None:
        values["cursor"] = cursor
    return "/?" + urlencode(values, doseq=True)


def _field_of(location: Sequence[int | str]) -> str:
    return str(location[0]) if location else "address"
