"""How templates become pages: one environment for all of them, and what every page is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from service.core.access import asking
from service.core.clock import Clock
from service.core.packages import ModelPackage
from service.core.settings import Settings
from service.records.database import Records
from service.web import words

TEMPLATES: Final = Path(__file__).resolve().parent / "templates"

Packages = Callable[[], Mapping[str, ModelPackage]]


def environment() -> Environment:
    """Return the environment of the templates; whatever they show is escaped."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(words=words, asking=asking)
    return templates


@dataclass(frozen=True)
class Desk:
    """What pages are made from: settings, records, clock, packages, templates."""

    settings: Settings
    records: Records
    clock: Clock
    packages: Packages
    templates: Environment

    def page(self, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page."""
        text = self.templates.get_template(template).render(
            now=self.clock.now(), clinical_use=self.settings.results.clinical_use, **values
        )
        return HTMLResponse(text, status_code=status)
