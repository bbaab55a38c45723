"""What an administrator switched while the product runs: paused queues, models off or in shadow.

A switch lies over the settings file and outlives a restart; taking it back leaves the settings in
force. What the settings switch off stays off: no worker has such a model at hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field
from sqlalchemy import ColumnElement, Connection, delete, exists, insert, select

from service.core.errors import InvalidRequest
from service.core.settings import ModelSettings, ModelsSettings, Settings
from service.records.tables import controls
from service.records.topics import Topic

_PAUSE: Final = "pause:"
_MODEL: Final = "model:"


@dataclass(frozen=True, slots=True)
class Pause:
    """A queue that hands out nothing until somebody lets it."""

    topic: Topic
    since: datetime
    by: str


@dataclass(frozen=True, slots=True)
class Switch:
    """What was switched of one model; None is as the settings say."""

    enabled: bool | None
    shadow: bool | None
    operating_point: str | None
    changed_by: str
    changed_at: Annotated[datetime, Field(description="When it was switched")]


def paused(topic: Topic) -> ColumnElement[bool]:
    """Return the condition that a queue is paused, for statements that hand out work."""
    return exists().where(controls.c.name == _PAUSE + topic.value)


def pauses(connection: Connection) -> Mapping[Topic, Pause]:
    """Return the queues that are paused."""
    query = select(controls).where(controls.c.name.startswith(_PAUSE))
    found = {}
    for row in connection.execute(query):
        topic = Topic(row.name.removeprefix(_PAUSE))
        found[topic] = Pause(topic, row.changed_at, row.changed_by)
    return found


def pause(connection: Connection, topic: Topic, *, by: str, at: datetime) -> None:
    """Let a queue hand out nothing; what runs goes on. A second pause changes nothing."""
    if topic not in pauses(connection):
        _write(connection, _PAUSE + topic.value, {}, by=by, at=at)


def resume(connection: Connection, topic: Topic) -> None:
    """Let a queue hand out work again; the scheduler rings for what is due."""
    connection.execute(delete(controls).where(controls.c.name == _PAUSE + topic.value))


def switches(connection: Connection) -> Mapping[str, Switch]:
    """Return what was switched, by the model's name."""
    query = select(controls).where(controls.c.name.startswith(_MODEL))
    return {
        row.name.removeprefix(_MODEL): Switch(
            enabled=row.value.get("enabled"),
            shadow=row.value.get("shadow"),
            operating_point=row.value.get("operating_point"),
            changed_by=row.changed_by,
            changed_at=row.changed_at,
        )
        for row in connection.execute(query)
    }


def switch(
    connection: Connection,
    model: str,
    value: Mapping[str, Any],
    *,
    settings: Settings,
    by: str,
    at: datetime,
) -> None:
    """Lay `value` over the settings of a model; an empty one takes every switch back.

    Raises
    ------
    InvalidRequest
        ``SWITCHED_OFF`` when a model is to be enabled that the settings switch off.
    """
    if value.get("enabled") and not settings.models.of(model).enabled:
        raise InvalidRequest(
            "SWITCHED_OFF", f"enabled: models.{model}.enabled is false in the settings"
        )
    connection.execute(delete(controls).where(controls.c.name == _MODEL + model))
    given = {key: each for key, each in value.items() if each is not None}
    if given:
        _write(connection, _MODEL + model, given, by=by, at=at)


def in_force(connection: Connection, settings: Settings) -> Settings:
    """Return the settings with what was switched laid over their models."""
    switched = switches(connection)
    if not switched:
        return settings
    return settings.model_copy(update={"models": over(settings.models, switched)})


def over(models: ModelsSettings, switched: Mapping[str, Switch]) -> ModelsSettings:
    """Return the choices by model with switches laid over them."""
    laid = {name: _laid(models.of(name), one) for name, one in switched.items()}
    return models.model_copy(update=laid)


def _laid(chosen: ModelSettings, switched: Switch) -> ModelSettings:
    values: dict[str, Any] = {"enabled": chosen.enabled and switched.enabled is not False}
    if switched.shadow is not None:
        values["shadow"] = switched.shadow
    if switched.operating_point is not None:
        values["operating_point"] = switched.operating_point
    return chosen.model_copy(update=values)


def _write(
    connection: Connection, name: str, value: Mapping[str, Any], *, by: str, at: datetime
) -> None:
    connection.execute(
        insert(controls).values(name=name, value=dict(value), changed_by=by, changed_at=at)
    )
