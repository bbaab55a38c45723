"""How models do at this site: what readers make of findings, and whether scores have moved.

References
----------
The population stability index compares two distributions over the same bins; below 0.1 it is
commonly read as unchanged, above 0.25 as a change that somebody should look at.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import Field
from sqlalchemy import CTE, Connection, Select, and_, case, func, literal, select

from service.core.findings import Qualifier
from service.core.states import JobState
from service.records.tables import findings, instances, jobs, reviews, studies

_SHIFTED: Final = 0.25
_MOVED: Final = 0.1
# Fewer candidates on either side say nothing.
_LEAST_CANDIDATES: Final = 50
_SMALLEST_SHARE: Final = 1e-3


class By(StrEnum):
    """What review rates are told apart by."""

    SCANNER = "scanner"
    PROTOCOL = "protocol"
    SITE = "site"


class Change(StrEnum):
    """How far scores have moved."""

    UNKNOWN = "unknown"
    STEADY = "steady"
    MOVED = "moved"
    SHIFTED = "shifted"


@dataclass(frozen=True, slots=True)
class ReviewRate:
    """What readers made of one model version's findings on one scanner, protocol or site."""

    model: str
    version: str
    by: By
    value: Annotated[str, Field(description="Manufacturer and model, Protocol Name, or sender")]
    runs: Annotated[int, Field(description="Completed")]
    positive_runs: Annotated[int, Field(description="With at least one finding present")]
    findings: Annotated[int, Field(description="Present or indeterminate")]
    accepted: int
    rejected: int
    edited: int


@dataclass(frozen=True, slots=True)
class Drift:
    """One model version's scores on one scanner, now and in the stretch of time before."""

    model: str
    version: str
    scanner: str
    candidates: int
    candidates_before: int
    mean: Annotated[float | None, Field(description="Probability, from the middles of the bins")]
    mean_before: float | None
    stability_index: Annotated[float | None, Field(description="Population stability index")]
    change: Change


@dataclass(frozen=True, slots=True)
class Scores:
    """How many candidates lie in each bin of probability, of one model version on one scanner."""

    model: str
    version: str
    scanner: str
    counts: Sequence[int]


def review_rates(connection: Connection, since: datetime, until: datetime) -> list[ReviewRate]:
    """Return runs, findings and newest verdicts by model version and each of `By`."""
    within = _within(since, until)
    counted = list(_runs(connection, within))
    judged = _verdicts(connection, within)
    return [rate for place, by in enumerate(By) for rate in _folded(by, place + 2, counted, judged)]


def drifts(now: Sequence[Scores], before: Sequence[Scores]) -> list[Drift]:
    """Compare scores with those of the time before, model by model and scanner by scanner."""
    present, past = _gathered(now), _gathered(before)
    return [_drift(key, present.get(key, ()), past.get(key, ())) for key in sorted(present)]


def stability_index(now: Sequence[int], before: Sequence[int]) -> float:
    """Return the population stability index of two histograms over the same bins.

    >>> round(stability_index([10, 10], [10, 10]), 3), round(stability_index([5, 15], [15, 5]), 2)
    (0.0, 1.1)
    """
    shares = zip(_shares(now), _shares(before), strict=True)
    return sum((new - old) * math.log(new / old) for new, old in shares)


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [max(count / total, _SMALLEST_SHARE) for count in counts]


def _gathered(scores: Sequence[Scores]) -> dict[tuple[str, str, str], list[int]]:
    summed: dict[tuple[str, str, str], list[int]] = {}
    for one in scores:
        key = (one.model, one.version, one.scanner)
        so_far = summed.setdefault(key, [0] * len(one.counts))
        summed[key] = [old + new for old, new in zip(so_far, one.counts, strict=True)]
    return summed


def _drift(key: tuple[str, str, str], now: Sequence[int], before: Sequence[int]) -> Drift:
    index = None
    if min(sum(now), sum(before)) >= _LEAST_CANDIDATES:
        index = stability_index(now, before)
    return Drift(*key, sum(now), sum(before), _mean(now), _mean(before), index, _change(index))


def _change(index: float | None) -> Change:
    if index is None:
        return Change.UNKNOWN
    if index >= _SHIFTED:
        return Change.SHIFTED
    return Change.MOVED if index >= _MOVED else Change.STEADY


def _mean(counts: Sequence[int]) -> float | None:
    total = sum(counts)
    if not total:
        return None
    return sum(count * (place + 0.5) / len(counts) for place, count in enumerate(counts)) / total


def _within(since: datetime, until: datetime) -> list[Any]:
    return [
        jobs.c.created_at >= since,
        jobs.c.created_at < until,
        jobs.c.state == JobState.COMPLETED,
        jobs.c.current,
    ]


@dataclass(frozen=True)
class _Counts:
    """Runs of one model version on one scanner, by one protocol, from one site."""

    key: tuple[str | None, ...]
    runs: int
    positive_runs: int | None
    findings: int | None


def _folded(
    by: By,
    place: int,
    counted: Sequence[_Counts],
    judged: Mapping[tuple[str | None, ...], Mapping[str, int]],
) -> Iterator[ReviewRate]:
    """Yield rates by one part of the key, everything else summed."""
    sums: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for one in counted:
        model, version, value = (one.key[0] or "", one.key[1] or "", one.key[place] or "")
        sums[model, version, value] += Counter(
            runs=one.runs,
            positive_runs=int(one.positive_runs or 0),
            findings=int(one.findings or 0),
            **judged.get(one.key, {}),
        )
    for (model, version, value), found in sorted(sums.items()):
        numbers = {name: found[name] for name in _NUMBERS}
        yield ReviewRate(model=model, version=version, by=by, value=value, **numbers)


# One image stands for the series of a run.
_IMAGE: Final = (
    select(func.min(instances.c.id))
    .where(instances.c.series_id == jobs.c.series_id)
    .correlate(jobs)
    .scalar_subquery()
)


def contexts(within: Sequence[Any]) -> CTE:
    """Return each run's model, day, scanner, protocol and site, worked out once for a statement."""
    header: Any = instances.c.header
    query = (
        select(
            jobs.c.id.label("job_id"),
            jobs.c.model_name.label("model"),
            jobs.c.model_version.label("version"),
            func.date(jobs.c.created_at).label("day"),
            header["manufacturer"].as_string().label("manufacturer"),
            header["manufacturer_model_name"].as_string().label("scanner"),
            header["protocol_name"].as_string().label("protocol"),
            studies.c.source_ae_title.label("site"),
        )
        .select_from(jobs)
        .join(studies, studies.c.id == jobs.c.study_id)
        .join(instances, instances.c.id == _IMAGE, isouter=True)
        .where(*within)
    )
    # Else the header is read again for every finding.
    return query.cte("contexts").prefix_with("MATERIALIZED")


def _runs(connection: Connection, within: Sequence[Any]) -> Iterator[_Counts]:
    """Yield runs by model, version and what `By` names, in its order."""
    context = contexts(within)
    keys = (
        context.c.model,
        context.c.version,
        func.trim(context.c.manufacturer + literal(" ") + context.c.scanner),
        context.c.protocol,
        context.c.site,
    )
    present = case((findings.c.qualifier == Qualifier.PRESENT, context.c.job_id))
    shown = case((findings.c.qualifier == Qualifier.ABSENT, 0), else_=1)
    counted = select(*keys, func.count(present.distinct()), func.sum(shown)).select_from(context)
    counted = counted.join(findings, findings.c.job_id == context.c.job_id).group_by(*keys)
    found = {tuple(row[:-2]): row[-2:] for row in connection.execute(counted)}
    runs = select(*keys, func.count()).select_from(context).group_by(*keys)
    for *parts, number in connection.execute(runs):
        key = tuple(parts)
        yield _Counts(key, number, *found.get(key, (0, 0)))


def _verdicts(
    connection: Connection, within: Sequence[Any]
) -> Mapping[tuple[Any, ...], Mapping[str, int]]:
    header: Any = instances.c.header
    made_by = header["manufacturer"].as_string() + literal(" ")
    keys = (
        jobs.c.model_name,
        jobs.c.model_version,
        func.trim(made_by + header["manufacturer_model_name"].as_string()),
        header["protocol_name"].as_string(),
        studies.c.source_ae_title,
    )
    query = judged(*keys, reviews.c.verdict, func.count()).where(*within)
    gathered: defaultdict[tuple[Any, ...], dict[str, int]] = defaultdict(dict)
    for *key, verdict, number in connection.execute(query.group_by(*keys, reviews.c.verdict)):
        gathered[tuple(key)][verdict] = number
    return gathered


def judged(*columns: Any) -> Select[Any]:
    """Return a query over the newest verdict of each finding, with its run, study and an image."""
    newest = select(func.max(reviews.c.id)).group_by(reviews.c.finding_id)
    return (
        select(*columns)
        .select_from(reviews)
        .join(findings, and_(findings.c.id == reviews.c.finding_id, reviews.c.id.in_(newest)))
        .join(jobs, jobs.c.id == findings.c.job_id)
        .join(studies, studies.c.id == jobs.c.study_id)
        .join(instances, instances.c.id == _IMAGE, isouter=True)
    )


_NUMBERS: Final = ("runs", "positive_runs", "findings", "accepted", "rejected", "edited")
