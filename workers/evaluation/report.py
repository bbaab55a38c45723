"""The report of an evaluation as one HTML page that needs nothing else."""

from collections.abc import Iterator
from datetime import datetime
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from workers.evaluation.run import Evaluation


def report_html(evaluation: Evaluation, at: datetime) -> str:
    """Return the page; `at` is when it was made."""
    template = resources.files("workers.evaluation").joinpath("report.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    document = evaluation.document
    return environment.from_string(template).render(
        package=document["package"],
        data=document["data"],
        seconds=document["seconds_per_case"],
        figures=list(rows_of(document["figures"])),
        subgroups=document["subgroups"],
        cases=document["cases"],
        remarks=document["remarks"],
        # Curves are made here from numbers and escaped names.
        charts=[(chart.title, Markup(chart.svg)) for chart in evaluation.charts],  # noqa: S704
        worst=evaluation.worst,
        at=at.strftime("%Y-%m-%d %H:%M UTC"),
        text=text_of,
    )


def rows_of(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield figures as (name, value), nested names joined; an interval joins its figure."""
    if not isinstance(value, dict):
        yield " · ".join(path), text_of(value)
        return
    for name, inner in value.items():
        if name.endswith("_interval") and name.removesuffix("_interval") in value:
            continue
        interval = value.get(f"{name}_interval")
        place = (*path, name.replace("_", " "))
        if isinstance(inner, float | int) and interval:
            yield " · ".join(place), f"{text_of(inner)} ({text_of(interval)})"
        else:
            yield from rows_of(inner, place)


def text_of(value: Any) -> str:
    """Return a figure as people read it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".") if value else "0"
    if isinstance(value, list):
        joint = " to " if len(value) == 2 else ", "
        return joint.join(text_of(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {text_of(item)}" for name, item in value.items())
    return str(value)
