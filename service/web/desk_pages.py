"""The administrator's pages: queue, destinations, rules, models, disk, statistics."""

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from service.core.profiles import adapted
from service.core.settings import Destination
from service.core.states import DeliveryState, JobState
from service.records import controls, desk, events, heartbeats, listings, statistics
from service.records import destinations as seen_classes
from service.records.figures import Figures
from service.records.listings import Filter
from service.records.statistics import Gauges, ScoreDistribution
from service.web import charts
from service.web.environment import Desk

_ALIVE_WITHIN: Final = timedelta(seconds=20)
_QUEUE_ROWS: Final = 50
_UNSENT: Final = (DeliveryState.PARKED, DeliveryState.SCHEDULED, DeliveryState.IN_PROGRESS)
_DEFAULT_DAYS: Final = 30
_LONGEST_DAYS: Final = 400
_BINS: Final = [f"{place / statistics.BINS:.1f}" for place in range(statistics.BINS)]


class DeskPages:
    """Answers with the administrator's pages."""

    def __init__(self, here: Desk) -> None:
        self._desk = here
        self._figures = Figures(here.records)

    def show_queue(self) -> HTMLResponse:
        """Show what runs, what waits, what failed and why, and which processes are alive."""
        since = self._desk.clock.now() - _ALIVE_WITHIN
        with self._desk.records.reading() as connection:
            newest_event_id = events.newest_id(connection)
            gauges = statistics.gauges(connection, alive_since=since)
            alive = heartbeats.seen_since(connection, since)
            queues = desk.queue_lines(connection)
            lists = {
                state: listings.job_page(
                    connection, Filter(states=(state,)), limit=_QUEUE_ROWS, cursor=None
                ).items
                for state in (JobState.IN_PROGRESS, JobState.SCHEDULED, JobState.FAILED)
            }
            stuck = listings.delivery_page(
                connection, Filter(states=_UNSENT), limit=_QUEUE_ROWS, cursor=None
            ).items
        return self._desk.page(
            "queue.html",
            newest_event_id=newest_event_id,
            counts=_counts(gauges),
            queues=queues,
            oldest=gauges.oldest_waiting_at,
            alive=alive,
            running=lists[JobState.IN_PROGRESS],
            waiting=lists[JobState.SCHEDULED],
            failed=lists[JobState.FAILED],
            stuck=stuck,
            most=_QUEUE_ROWS,
        )

    def show_destinations(self) -> HTMLResponse:
        """Show where results go, what arrived and what did not."""
        with self._desk.records.reading() as connection:
            newest_event_id = events.newest_id(connection)
            traffic = desk.traffic(connection)
            refused = seen_classes.refused(connection, at=self._desk.clock.now())
        destinations = self._desk.settings.destinations
        names = {one.name for one in destinations}
        return self._desk.page(
            "destinations.html",
            newest_event_id=newest_event_id,
            destinations=destinations,
            address_of=_address_of,
            traffic=traffic,
            gone={name: seen for name, seen in traffic.items() if name not in names},
            instead={
                one.name: adapted(one.profile, refused[one.name]).changes
                for one in destinations
                if one.name in refused
            },
        )

    def show_rules(self) -> HTMLResponse:
        """Show the routing rules, with a place to try them."""
        settings = self._desk.settings
        return self._desk.page(
            "rules.html", rules=settings.routing, destinations=settings.destinations
        )

    def show_storage(self) -> HTMLResponse:
        """Show the disk, and what is kept on it for how long."""
        settings, at = self._desk.settings, self._desk.clock.now()
        with self._desk.records.reading() as connection:
            kept = desk.kept(connection, at=at, keep=settings.retention.keep)
        return self._desk.page(
            "storage.html",
            kept=kept,
            disk=shutil.disk_usage(settings.data_dir),
            retention=settings.retention,
        )

    def show_models(self) -> HTMLResponse:
        """Show the installed models with their switches."""
        packages = sorted(self._desk.packages().values(), key=lambda package: package.name)
        with self._desk.records.reading() as connection:
            switched = controls.switches(connection)
            counts = statistics.model_counts(connection)
            loaded = _loaded(
                heartbeats.seen_since(connection, self._desk.clock.now() - _ALIVE_WITHIN)
            )
        models = self._desk.settings.models
        return self._desk.page(
            "models.html",
            packages=packages,
            configured=models.of,
            in_force=controls.over(models, switched).of,
            switched=switched,
            counts={(one.model, one.version): one for one in counts},
            loaded=loaded,
        )

    def show_model(self, name: str) -> HTMLResponse:
        """Show one model's card and figures."""
        package = self._desk.packages().get(name)
        if package is None:
            return self._desk.page(
                "message.html", status=404, title="No such model", text="It is not installed."
            )
        card = package.folder / "card.md"
        text = card.read_text("utf-8", "replace") if card.is_file() else ""
        return self._desk.page("model.html", package=package, card=text)

    def show_statistics(self, since: str = "", until: str = "") -> HTMLResponse:
        """Show figures from one day to another, both included, in UTC."""
        today = self._desk.clock.now().date()
        first, last, faults = _days(since, until, today)
        begin = datetime.combine(first, datetime.min.time(), UTC)
        end = datetime.combine(last + timedelta(days=1), datetime.min.time(), UTC)
        figures = self._figures.over(begin, end)
        return self._desk.page(
            "statistics.html",
            status=422 if faults else 200,
            figures=figures,
            faults=faults,
            since=first,
            until=last,
            spans=[(days, today - timedelta(days=days - 1), today) for days in (7, 30, 90, 365)],
            volumes=charts.bars(
                "Studies received, by day",
                [one.day for one in figures.volumes],
                [one.studies for one in figures.volumes],
            ),
            turnaround=charts.lines(
                "Last image to acknowledged result, by day, in seconds",
                [one.day for one in figures.turnaround],
                [
                    ("median", [one.median_s for one in figures.turnaround]),
                    ("95th percentile", [one.p95_s for one in figures.turnaround]),
                ],
                " s",
            ),
            scores=_score_charts(figures.scores),
        )


def router(here: Desk) -> APIRouter:
    """Return the routes of the administrator's pages."""
    routes = APIRouter(include_in_schema=False)
    pages = DeskPages(here)
    for path, handler in (
        ("/queue", pages.show_queue),
        ("/destinations", pages.show_destinations),
        ("/rules", pages.show_rules),
        ("/storage", pages.show_storage),
        ("/statistics", pages.show_statistics),
        ("/models", pages.show_models),
        ("/models/{name}", pages.show_model),
    ):
        routes.add_api_route(path, handler, methods=["GET"], response_model=None)
    return routes


def _counts(gauges: Gauges) -> Mapping[str, int]:
    """Return how many jobs are in each state, over all models."""
    counted: defaultdict[str, int] = defaultdict(int)
    for _, _, state, number in gauges.jobs:
        counted[state] += number
    return counted


def _address_of(one: Destination) -> str:
    if one.mllp_host is not None:
        return f"{one.mllp_host}:{one.port}"
    return one.stow_url or f"{one.ae_title}@{one.host}:{one.port}"


def _loaded(alive: Sequence[heartbeats.Heartbeat]) -> Mapping[str, Sequence[str]]:
    """Return the devices on which live workers hold each model, as ``name version`` says."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for one in alive:
        for name, version in dict(one.detail.get("models") or {}).items():
            found[f"{name} {version}"].add(one.device or "unknown device")
    return {name: sorted(devices) for name, devices in found.items()}


def _days(since: str, until: str, today: date) -> tuple[date, date, Mapping[str, str]]:
    """Return the days of an address; what is wrong in it is left out and told."""
    faults: dict[str, str] = {}
    last = _day("until", until, today, faults)
    first = _day("since", since, last - timedelta(days=_DEFAULT_DAYS - 1), faults)
    if first > last or (last - first).days >= _LONGEST_DAYS:
        faults["since"] = f"lies up to {_LONGEST_DAYS} days before until"
        first = last - timedelta(days=_DEFAULT_DAYS - 1)
    return first, last, faults


def _day(name: str, text: str, default: date, faults: dict[str, str]) -> date:
    if not text:
        return default
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = date.min
    if not 1970 <= found.year <= 9000:
        faults[name] = "a day is written as 2026-01-31"
        return default
    return found


def _score_charts(scores: Sequence[ScoreDistribution]) -> list[charts.Chart]:
    """Return a chart for each model version: candidates by probability, all scanners together."""
    summed: dict[str, list[int]] = {}
    for one in scores:
        name = f"{one.model} {one.version}"
        so_far = summed.setdefault(name, [0] * statistics.BINS)
        summed[name] = [old + new for old, new in zip(so_far, one.counts, strict=True)]
    return [charts.bars(name, _BINS, counts) for name, counts in sorted(summed.items())]
