"""Figures for the statistics page and the metrics: counted by the database, never one by one."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Final

from pydantic import Field
from sqlalchemy import Connection, Integer, cast, func, or_, select

from service.core.states import JobState, ResultState, StudyState
from service.records import quality
from service.records.quality import Drift, ReviewRate, Scores
from service.records.tables import (
    deliveries,
    events,
    findings,
    heartbeats,
    instances,
    jobs,
    results,
    reviews,
    studies,
)

BINS: Final = 10
# Percentiles are taken over the newest runs of the time asked for; more would not move them.
_NEWEST_RUNS: Final = 10_000


@dataclass(frozen=True, slots=True)
class DayVolume:
    """What came in on one day (UTC)."""

    day: str
    studies: int
    instances: int


@dataclass(frozen=True, slots=True)
class Latency:
    """How long one stretch of the way took, in seconds."""

    stage: Annotated[
        str,
        Field(description="queued: made to started; run: started to ended; sent: result written to "
              "acknowledged; total: last instance to acknowledged"),
    ]  # fmt: skip
    count: int
    median_s: float
    p95_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """How often one version of a model ran, and what readers made of its findings."""

    model: str
    version: str
    runs: Annotated[Mapping[str, int], Field(description="By state")]
    reviews: Annotated[Mapping[str, int], Field(description="Newest verdicts, by verdict")]


@dataclass(frozen=True, slots=True)
class ScoreDistribution:
    """Probabilities of one model's candidates, by day and scanner."""

    model: str
    version: str
    day: str
    manufacturer: str
    scanner: str
    reviews: Annotated[Mapping[str, int], Field(description="Newest verdicts, by verdict")]
    counts: Annotated[list[int], Field(description="Candidates in tenths of probability")]


@dataclass(frozen=True, slots=True)
class SiteVolume:
    """What came from one sender."""

    site: Annotated[str, Field(description="AE title of the first sender")]
    studies: int
    instances: int


@dataclass(frozen=True, slots=True)
class DayTurnaround:
    """How long the results of one day took, from the last instance to the acknowledgement."""

    day: str
    count: int
    median_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures over a stretch of time."""

    received_from: datetime
    received_to: datetime
    volumes: list[DayVolume]
    sites: list[SiteVolume]
    latencies: list[Latency]
    turnaround: list[DayTurnaround]
    models: list[ModelCounts]
    reviews: Annotated[
        list[ReviewRate], Field(description="By model version and scanner, protocol or site")
    ]
    scores: list[ScoreDistribution]
    drift: Annotated[
        list[Drift], Field(description="Scores against those of as long a time just before")
    ]


@dataclass(frozen=True, slots=True)
class Gauges:
    """What stands where right now."""

    studies: Mapping[str, int]
    jobs: Sequence[tuple[str, str, str, int]]  # task, model, state, count
    oldest_waiting_at: Mapping[str, datetime]  # by priority
    deliveries: Sequence[tuple[str, str, int]]  # destination, state, count
    results: Sequence[tuple[str, str, int]]  # role, state, count; past ones in quarantine are out
    workers: Sequence[tuple[str, str, int]]  # role, device, count
    newest_event_id: int


def over(connection: Connection, since: datetime, until: datetime) -> Statistics:
    """Return the figures of what was received or run from `since` until before `until`."""
    finished, arrived = _runs(connection, since, until), _sent(connection, since, until)
    scores = _scores(connection, since, until)
    before = _scores(connection, since - (until - since), since)
    return Statistics(
        received_from=since,
        received_to=until,
        volumes=_volumes(connection, since, until),
        sites=_sites(connection, since, until),
        latencies=_latencies(finished, arrived),
        turnaround=_turnaround(arrived),
        models=model_counts(connection, since, until),
        reviews=quality.review_rates(connection, since, until),
        scores=scores,
        drift=quality.drifts(_of_scanners(scores), _of_scanners(before)),
    )


def model_counts(
    connection: Connection, since: datetime | None = None, until: datetime | None = None
) -> list[ModelCounts]:
    """Return runs and reviews by model and version, over all time or a stretch of it."""
    within = _within(since, until)
    runs: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    by_state = select(
        jobs.c.model_name, jobs.c.model_version, jobs.c.state, func.count().label("n")
    )
    grouped = by_state.where(*within).group_by(
        jobs.c.model_name, jobs.c.model_version, jobs.c.state
    )
    for row in connection.execute(grouped):
        runs[row.model_name, row.model_version][row.state] = row.n
    verdicts = _verdicts(connection, within, jobs.c.model_name, jobs.c.model_version)
    return [
        ModelCounts(name, version, counts, verdicts.get((name, version), {}))
        for (name, version), counts in sorted(runs.items())
    ]


def gauges(connection: Connection, *, alive_since: datetime) -> Gauges:
    """Return the counts that metrics show."""
    by_study = select(studies.c.state, func.count()).group_by(studies.c.state)
    by_job = select(jobs.c.task, jobs.c.model_name, jobs.c.state, func.count()).group_by(
        jobs.c.task, jobs.c.model_name, jobs.c.state
    )
    waiting = (
        select(jobs.c.priority, func.min(jobs.c.due_at))
        .where(jobs.c.state == JobState.SCHEDULED)
        .group_by(jobs.c.priority)
    )
    in_force = or_(results.c.state != ResultState.QUARANTINED, results.c.superseded_at.is_(None))
    by_result = (
        select(results.c.role, results.c.state, func.count())
        .where(in_force)
        .group_by(results.c.role, results.c.state)
    )
    by_delivery = select(deliveries.c.destination, deliveries.c.state, func.count()).group_by(
        deliveries.c.destination, deliveries.c.state
    )
    alive = (
        select(heartbeats.c.role, heartbeats.c.device, func.count())
        .where(heartbeats.c.seen_at >= alive_since)
        .group_by(heartbeats.c.role, heartbeats.c.device)
    )
    counted = {state.value: 0 for state in StudyState}
    counted |= {state: number for state, number in connection.execute(by_study)}
    return Gauges(
        studies=counted,
        jobs=[(row[0], row[1], row[2], row[3]) for row in connection.execute(by_job)],
        oldest_waiting_at={priority: at for priority, at in connection.execute(waiting)},
        deliveries=[(row[0], row[1], row[2]) for row in connection.execute(by_delivery)],
        results=[(row[0], row[1], row[2]) for row in connection.execute(by_result)],
        workers=[(row[0], row[1], row[2]) for row in connection.execute(alive)],
        newest_event_id=connection.execute(select(func.max(events.c.id))).scalar() or 0,
    )


def _within(since: datetime | None, until: datetime | None) -> list[Any]:
    # A report made anew from a run is no further run of the model.
    conditions: list[Any] = [jobs.c.report_of.is_(None)]
    if since is not None:
        conditions.append(jobs.c.created_at >= since)
    if until is not None:
        conditions.append(jobs.c.created_at < until)
    return conditions


def _volumes(connection: Connection, since: datetime, until: datetime) -> list[DayVolume]:
    day = func.date(studies.c.received_at)
    query = (
        select(day.label("day"), func.count().label("n"), func.sum(studies.c.instances_count))
        .where(studies.c.received_at >= since, studies.c.received_at < until)
        .group_by(day)
        .order_by(day)
    )
    return [DayVolume(_day(row[0]), row[1], int(row[2] or 0)) for row in connection.execute(query)]


def _sites(connection: Connection, since: datetime, until: datetime) -> list[SiteVolume]:
    number = func.count()
    query = (
        select(studies.c.source_ae_title, number, func.sum(studies.c.instances_count))
        .where(studies.c.received_at >= since, studies.c.received_at < until)
        .group_by(studies.c.source_ae_title)
        .order_by(number.desc(), studies.c.source_ae_title)
    )
    return [SiteVolume(row[0], row[1], int(row[2] or 0)) for row in connection.execute(query)]


def _runs(connection: Connection, since: datetime, until: datetime) -> Sequence[Any]:
    query = (
        select(jobs.c.created_at, jobs.c.started_at, jobs.c.ended_at)
        .where(*_within(since, until), jobs.c.state == JobState.COMPLETED)
        .order_by(jobs.c.created_at.desc())
        .limit(_NEWEST_RUNS)
    )
    return connection.execute(query).all()


def _sent(connection: Connection, since: datetime, until: datetime) -> Sequence[Any]:
    query = (
        select(deliveries.c.created_at, deliveries.c.delivered_at, studies.c.last_received_at)
        .join_from(deliveries, studies)
        .where(
            deliveries.c.created_at >= since,
            deliveries.c.created_at < until,
            deliveries.c.delivered_at.is_not(None),
        )
        .order_by(deliveries.c.id.desc())
        .limit(_NEWEST_RUNS)
    )
    return connection.execute(query).all()


def _latencies(finished: Sequence[Any], arrived: Sequence[Any]) -> list[Latency]:
    stages = {
        "queued": [(row.created_at, row.started_at) for row in finished],
        "run": [(row.started_at, row.ended_at) for row in finished],
        "sent": [(row.created_at, row.delivered_at) for row in arrived],
        "total": [(row.last_received_at, row.delivered_at) for row in arrived],
    }
    return [_latency(stage, spans) for stage, spans in stages.items()]


def _turnaround(arrived: Sequence[Any]) -> list[DayTurnaround]:
    by_day: defaultdict[str, list[tuple[datetime | None, datetime | None]]] = defaultdict(list)
    for row in arrived:
        by_day[row.delivered_at.date().isoformat()].append((row.last_received_at, row.delivered_at))
    figures = ((day, _latency("total", spans)) for day, spans in sorted(by_day.items()))
    return [DayTurnaround(day, one.count, one.median_s, one.p95_s) for day, one in figures]


def _of_scanners(scores: Sequence[ScoreDistribution]) -> list[Scores]:
    return [
        Scores(one.model, one.version, f"{one.manufacturer} {one.scanner}".strip(), one.counts)
        for one in scores
    ]


def _latency(stage: str, spans: Iterable[tuple[datetime | None, datetime | None]]) -> Latency:
    seconds = sorted(
        (end - start).total_seconds() for start, end in spans if start is not None and end
    )
    if not seconds:
        return Latency(stage, 0, 0.0, 0.0, 0.0)
    p95 = seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))]
    return Latency(stage, len(seconds), statistics.median(seconds), p95, seconds[-1])


def _scores(connection: Connection, since: datetime, until: datetime) -> list[ScoreDistribution]:
    within = _within(since, until)
    context = quality.contexts(within)
    keys = (
        context.c.model,
        context.c.version,
        context.c.day,
        context.c.manufacturer,
        context.c.scanner,
    )
    tenth = cast(func.floor(findings.c.probability * BINS), Integer)
    counted: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * BINS)
    query = (
        select(*keys, tenth, func.count())
        .select_from(context)
        .join(findings, findings.c.job_id == context.c.job_id)
        .group_by(*keys, tenth)
    )
    for *key, bin_number, number in connection.execute(query):
        counted[tuple(key)][min(bin_number, BINS - 1)] += number
    header: Any = instances.c.header
    verdicts = _verdicts(
        connection,
        within,
        jobs.c.model_name,
        jobs.c.model_version,
        func.date(jobs.c.created_at),
        header["manufacturer"].as_string(),
        header["manufacturer_model_name"].as_string(),
    )
    return [
        ScoreDistribution(
            model=key[0],
            version=key[1],
            day=_day(key[2]),
            manufacturer=key[3] or "",
            scanner=key[4] or "",
            reviews=verdicts.get(key, {}),
            counts=counts,
        )
        for key, counts in sorted(counted.items(), key=lambda item: tuple(map(str, item[0])))
    ]


def _verdicts(
    connection: Connection, within: list[Any], *keys: Any
) -> dict[tuple[Any, ...], dict[str, int]]:
    """Return how often each verdict is the newest of its finding, by these columns."""
    query = quality.judged(*keys, reviews.c.verdict, func.count()).where(*within)
    gathered: defaultdict[tuple[Any, ...], dict[str, int]] = defaultdict(dict)
    for *key, verdict, number in connection.execute(query.group_by(*keys, reviews.c.verdict)):
        gathered[tuple(key)][verdict] = number
    return gathered


def _day(value: date | str) -> str:
    return value if isinstance(value, str) else value.isoformat()
