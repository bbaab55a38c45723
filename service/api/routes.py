"""How a route is added: its name and words come from the function, its answers are documented."""

import inspect
from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Response

from service.api.problems import documented

PREFIX: Final = "/api/v1"

Handler = Callable[..., Response]


def add(
    routes: APIRouter,
    route: str,
    handler: Handler,
    *,
    gives: Any,
    problems: tuple[int, ...] = (),
    status: int = 200,
    away: Any = None,
    tag: str | None = None,
) -> None:
    """Add a handler under ``METHOD path``.

    The operation is named for the function; the first line of its docstring is the summary, the
    rest the description. `gives` is the type of the answer's JSON, for the documentation alone:
    answers are written without a second validation; `away` is that of a 503 which is no `Problem`.
    """
    method, _, path = route.partition(" ")
    unavailable: dict[int | str, dict[str, Any]] = {}
    if away is not None:
        unavailable[503] = {"model": away, "description": "Something needed is missing"}
    summary, _, description = inspect.cleandoc(handler.__doc__ or "").partition("\n\n")
    routes.add_api_route(
        path,
        handler,
        methods=[method],
        status_code=status,
        operation_id=_camel(handler.__name__),
        summary=" ".join(summary.split()).rstrip("."),
        description=description,
        responses={status: {"model": gives}, **documented(*problems, 503), **unavailable},
        response_model=None,
        tags=None if tag is None else [tag],
    )


def _camel(name: str) -> str:
    """Return a Python name as OpenAPI clients expect operations.

    >>> _camel("list_worklist")
    'listWorklist'
    """
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
