"""Model packages over HTTP: what each is for, how well it does, how often it ran."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Response
from pydantic import Field

from service.api.answers import answer
from service.api.context import Context
from service.api.routes import PREFIX, add
from service.api.schemas import ModelName
from service.core.errors import NotFound
from service.core.manifest_output import OperatingPoint
from service.core.packages import ModelPackage
from service.core.settings import Settings
from service.records import statistics
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
        counts = self._counts()
        packages = self._context.shelf.packages().values()
        items = [ModelItem(**_item(one, self._context.settings, counts)) for one in packages]
        return answer(ModelList(items))

    def get_model(self, name: ModelName) -> Response:
        """Get one model.

        The package with its whole manifest and its card.
        """
        package = self._context.shelf.packages().get(name)
        if package is None:
            raise NotFound("MODEL_UNKNOWN", f"no model {name}")
        described = package.manifest.package
        return answer(
            ModelDetail(
                **_item(package, self._context.settings, self._counts()),
                intended_use=described.intended_use,
                not_for=described.not_for,
                limitations=described.limitations,
                licence=described.licence,
                manifest=package.manifest.model_dump(mode="json"),
                card=card_text(package.folder),
            )
        )

    def _counts(self) -> Sequence[ModelCounts]:
        with self._context.records.reading() as connection:
            return statistics.model_counts(connection)


def router(context: Context) -> APIRouter:
    """Return the routes of models."""
    routes, handlers = APIRouter(prefix=PREFIX, tags=["models"]), ModelRoutes(context)
    add(routes, "GET /models", handlers.list_models, gives=ModelList)
    add(routes, "GET /models/{name}", handlers.get_model, gives=ModelDetail, problems=(404, 422))
    return routes


def card_text(folder: Path) -> str:
    """Return a package's card, empty when it has none that can be read."""
    file = folder / _CARD_NAME
    try:
        with file.open("rb") as stream:
            return stream.read(_CARD_BYTES_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""


def _item(
    package: ModelPackage, settings: Settings, counted: Sequence[ModelCounts]
) -> dict[str, Any]:
    manifest, choices = package.manifest, settings.models.of(package.name)
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
        "modalities": manifest.applicability.modalities,
        "operating_point": choices.operating_point or manifest.operating_points[0].name,
        "operating_points": manifest.operating_points,
        "runs": mine.runs,
        "reviewed": sum(mine.reviews.values()),
        "accepted": mine.reviews.get("accepted", 0),
        "rejected": mine.reviews.get("rejected", 0),
        "edited": mine.reviews.get("edited", 0),
    }
