"""Whether an environment variable names a setting that exists."""

import typing

from pydantic import BaseModel

from service.core.settings import CONFIG_VARIABLE, PREFIX, Settings


def is_setting(variable: str) -> bool:
    """Return whether the product would take a value from this environment variable."""
    if variable == CONFIG_VARIABLE:
        return True
    keys = variable.removeprefix(PREFIX).removesuffix("_FILE").lower().split("__")
    return variable.startswith(PREFIX) and _leads_somewhere(Settings, keys)


def _leads_somewhere(model: type[BaseModel], keys: list[str]) -> bool:
    field = model.model_fields.get(keys[0])
    if field is None:
        # Sections that are open to names, like models.<name>, say so.
        return model.model_config.get("extra") == "allow"
    if len(keys) == 1:
        return True
    inner = [kind for kind in _kinds(field.annotation) if issubclass(kind, BaseModel)]
    return any(_leads_somewhere(kind, keys[1:]) for kind in inner)


def _kinds(annotation: object) -> list[type]:
    arguments = typing.get_args(annotation)
    if arguments:
        return [kind for argument in arguments for kind in _kinds(argument)]
    return [annotation] if isinstance(annotation, type) else []
