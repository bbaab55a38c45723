"""Model packages over HTTP: what each is for, how well it does, how often it ran."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import Field

from service.api.answers import answer
from service.api.context import Context, asker
from service.api.routes import PREFIX, add
from service.api.schemas import ModelName, SwitchBody
from service.core.errors import InvalidRequest, NotFound
from service.core.manifest_output import OperatingPoint
from service.core.packages import ModelPackage
from service.core.settings import Settings
from service.records import controls, statistics
from service.records.controls import Switch
from service.records.statistics import ModelCounts

_CARD_NAME: Final = "card.md"
_CARD_BYTES_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelItem:
    """An installed model package."""

    name: str
    version: str
    title: str
    task: str
    kind: str
    sha256: Annotated[str, Field(description="Of the manifest, which pins every file")]
    enabled: bool
    shadow: Annotated[bool, Field(description="Runs for comparison and is sent nowhere")]
    switched: Annotated[Switch | None, Field(description="What somebody laid over the settings")]
    modalities: Sequence[str]
    operating_point: Annotated[str, Field(description="The one in force")]
    operating_points: Annotated[
        Sequence[OperatingPoint], Field(description="Thresholds with what was measured there")
    ]
    runs: Annotated[Mapping[str, int], Field(description="Runs of this version by state")]
    reviewed: Annotated[int, Field(description="Findings of this version that a reader judged")]
    accepted: int
    rejected: int
    edited: int


@dataclass(frozen=True, slots=True)
class ModelList:
    """Model packages by name."""

    items: list[ModelItem]
    next: None = None


@dataclass(frozen=True, slots=True)
class ModelDetail(ModelItem):
    """A model package with its manifest and card."""

    intended_use: str
    not_for: str
    limitations: str
    licence: str
    manifest: Mapping[str, Any]
    card: Annotated[str, Field(description="Markdown")]


class ModelRoutes:
    """Answers about model packages."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def list_models(self) -> Response:
        """List installed models.

        Each package with its digest, operating points and how often it ran and was reviewed.
        """
        counts, switched = self._counts(), self._switches()
        packages = self._context.shelf.packages().values()
        items = [
            ModelItem(**_item(one, self._context.settings, counts, switched)) for one in packages
        ]
        return answer(ModelList(items))

    def get_model(self, name: ModelName) -> Response:
        """Get one model.

        The package with its whole manifest and its card.
        """
        package = self._package(name)
        described = package.manifest.package
        return answer(
            ModelDetail(
                **_item(package, self._context.settings, self._counts(), self._switches()),
                intended_use=described.intended_use,
                not_for=described.not_for,
                limitations=described.limitations,
                licence=described.licence,
                manifest=package.manifest.model_dump(mode="json"),
                card=card_text(package.folder),
            )
        )

    def switch_model(self, name: ModelName, body: SwitchBody, request: Request) -> Response:
        """Switch a model on, off or to shadow.

        Lies over the settings until it is taken back, over restarts too; studies that are
        scheduled from now on follow it. What the settings switch off stays off (409).
        """
        package, context = self._package(name), self._context
        if body.operating_point is not None:
            _require_point(package, body.operating_point)
        with context.records.writing() as connection:
            controls.switch(
                connection,
                name,
                body.model_dump(),
                settings=context.settings,
                by=asker(request),
                at=context.clock.now(),
            )
        return self.get_model(name)

    def _package(self, name: str) -> ModelPackage:
        package = self._context.shelf.packages().get(name)
        if package is None:
            raise NotFound("MODEL_UNKNOWN", f"no model {name}")
        return package

    def _switches(self) -> Mapping[str, Switch]:
        with self._context.records.reading() as connection:
            return controls.switches(connection)

    def _counts(self) -> Sequence[ModelCounts]:
        with self._context.records.reading() as connection:
            return statistics.model_counts(connection)


def router(context: Context) -> APIRouter:
    """Return the routes of models."""
    routes, handlers = APIRouter(prefix=PREFIX, tags=["models"]), ModelRoutes(context)
    add(routes, "GET /models", handlers.list_models, gives=ModelList)
    add(routes, "GET /models/{name}", handlers.get_model, gives=ModelDetail, problems=(404, 422))
    add(
        routes,
        "PUT /models/{name}/switch",
        handlers.switch_model,
        gives=ModelDetail,
        problems=(404, 409, 413, 422),
    )
    return routes


def _require_point(package: ModelPackage, name: str) -> None:
    known = [point.name for point in package.manifest.operating_points]
    if name not in known:
        raise InvalidRequest("OPERATING_POINT", f"operating_point: one of {', '.join(known)}")


def card_text(folder: Path) -> str:
    """Return a package's card, empty when it has none that can be read."""
    file = folder / _CARD_NAME
    try:
        with file.open("rb") as stream:
            return stream.read(_CARD_BYTES_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""


def _item(
    package: ModelPackage,
    settings: Settings,
    counted: Sequence[ModelCounts],
    switched: Mapping[str, Switch],
) -> dict[str, Any]:
    manifest = package.manifest
    choices = controls.over(settings.models, switched).of(package.name)
    mine = next(
        (one for one in counted if (one.model, one.version) == (package.name, package.version)),
        ModelCounts(package.name, package.version, {}, {}),
    )
    return {
        "name": package.name,
        "version": package.version,
        "title": manifest.package.title,
        "task": package.task,
        "kind": package.kind,
        "sha256": package.sha256,
        "enabled": choices.enabled,
        "shadow": choices.shadow,
        "switched": switched.get(package.name),
        "modalities": manifest.applicability.modalities,
        "operating_point": choices.operating_point or manifest.operating_points[0].name,
        "operating_points": manifest.operating_points,
        "runs": mine.runs,
        "reviewed": sum(mine.reviews.values()),
        "accepted": mine.reviews.get("accepted", 0),
        "rejected": mine.reviews.get("rejected", 0),
        "edited": mine.reviews.get("edited", 0),
    }
