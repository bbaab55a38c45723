"""What becomes of a complete study: assessments for every model, and a job for each that suits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from service.core.errors import InvalidRequest
from service.core.identifiers import derive_job_id
from service.core.packages import ModelPackage
from service.core.settings import Settings
from service.core.states import Priority
from service.records import assembly, assessments, comparisons, controls, jobs, progress, reports
from service.records import priors as records_of_priors
from service.records.assembly import OpenStudy, SeriesContent, StudyContent
from service.records.assessments import Assessment
from service.records.database import Transaction
from service.records.jobs import NewJob
from service.studies.eligibility import SeriesFacts, Verdict, assess, choose, closest, units_of_work
from service.studies.priors import begin_comparison
from service.studies.routing import Route, attributes, route


@dataclass(frozen=True)
class Request:
    """A person's wish to run models on a study again; empty fields mean every model."""

    task: str | None = None
    model: str | None = None
    priority: Priority | None = None
    force: bool = False
    for_comparison: bool = False  # nobody asked for a report: nothing is delivered


_FOR_COMPARISON: Final = Request(for_comparison=True)


def assess_study(
    connection: Transaction,
    study: OpenStudy,
    *,
    packages: Sequence[ModelPackage],
    settings: Settings,
    at: datetime,
) -> Sequence[str]:
    """Close the study's revision, write who suits and why not, and schedule the jobs.

    One transaction: either all of it is seen or nothing. Returns the ids of the jobs; empty also
    when a late instance came in between, which leaves the study open.
    """
    if not assembly.close_study(connection, study, at=at):
        return []
    purpose = comparisons.fetched_for(connection, study.study_instance_uid)
    if purpose is not None:
        asked = records_of_priors.models_run_on(connection, purpose)
        wanted = [package for package in packages if package.name in asked]
        return _schedule(connection, study.id, wanted, settings, _FOR_COMPARISON, at)
    job_ids = _schedule(connection, study.id, packages, settings, Request(), at)

    def analyse(prior_id: int, package: ModelPackage) -> Sequence[str]:
        request = replace(_FOR_COMPARISON, model=package.name)
        return _schedule(connection, prior_id, [package], settings, request, at)

    begin_comparison(
        connection,
        study.id,
        job_ids,
        packages=packages,
        settings=settings,
        analyse=analyse,
        at=at,
    )
    return job_ids


def complete_now(
    connection: Transaction,
    study_id: int,
    *,
    packages: Sequence[ModelPackage],
    settings: Settings,
    at: datetime,
) -> Sequence[str]:
    """Take a study for complete without waiting for its quiet time; returns the jobs' ids.

    A late instance opens it again, as ever.

    Raises
    ------
    InvalidRequest
        ``STUDY_COMPLETE`` when it is complete already.
    """
    study = assembly.close_at_once(connection, study_id, at=at)
    if study is None:
        raise InvalidRequest("STUDY_COMPLETE", "the study is complete already")
    return assess_study(connection, study, packages=packages, settings=settings, at=at)


def run_again(
    connection: Transaction,
    study_id: int,
    request: Request,
    *,
    packages: Sequence[ModelPackage],
    settings: Settings,
    at: datetime,
) -> Sequence[str]:
    """Schedule the jobs a person asked for; with `force` even where the same job is finished.

    Raises
    ------
    InvalidRequest
        ``MODEL_UNKNOWN`` when no installed model answers to the request.
    """
    wanted = [
        package
        for package in packages
        if request.task in (None, package.task) and request.model in (None, package.name)
    ]
    if not wanted:
        known = ", ".join(f"{package.name} ({package.task})" for package in packages)
        raise InvalidRequest("MODEL_UNKNOWN", f"no such model or task; installed: {known}")
    return _schedule(connection, study_id, wanted, settings, request, at)


def _schedule(
    connection: Transaction,
    study_id: int,
    packages: Sequence[ModelPackage],
    settings: Settings,
    request: Request,
    at: datetime,
) -> Sequence[str]:
    settings = controls.in_force(connection, settings)
    content = assembly.study_content(connection, study_id)
    decided = _route(connection, content, settings)
    enabled = [package for package in packages if _runs(package, decided, settings)]
    written: list[Assessment] = []
    job_ids = []
    for package in enabled:
        facts = {item.id: _facts(item) for item in content.series}
        verdicts = [assess(item, package.manifest) for item in facts.values()]
        chosen = choose(verdicts, package.manifest)
        written.extend(_assessments(package, verdicts, chosen))
        by_id = {item.id: item for item in content.series}
        new_jobs = [
            _job(
                content,
                _part(by_id[verdict.series_id], unit),
                package,
                decided,
                settings,
                priority=request.priority or decided.priority,
                repeat=_repeat(connection, verdict.series_id, package, request),
                is_wanted=not request.for_comparison,
            )
            for verdict in chosen
            for unit in units_of_work(facts[verdict.series_id], package.manifest)
        ]
        new_ids = [job.id for job in new_jobs]
        jobs.supersede(connection, study_id, package.name, keep=new_ids, at=at)
        for job in new_jobs:
            jobs.schedule(connection, job, at=at)
        if not new_jobs:
            reports.withdraw(connection, study_id, package.name, at=at)
        job_ids.extend(new_ids)
    if request in (Request(), _FOR_COMPARISON):
        assessments.replace(connection, study_id, written, at=at)
    progress.refresh(connection, study_id, at=at)
    return job_ids


def _runs(package: ModelPackage, decided: Route, settings: Settings) -> bool:
    named = decided.models is None or package.name in decided.models
    return named and settings.models.of(package.name).enabled


def _route(connection: Transaction, content: StudyContent, settings: Settings) -> Route:
    images = [item for item in content.series if not item.is_result and item.headers]
    if not images:
        return route((), settings.destinations, lambda _keyword: ())
    header = assembly.sample_header_bytes(connection, images[0].id)
    lookup = attributes(header, content.source_ae_title)
    return route(settings.routing, settings.destinations, lookup)


def _facts(series: SeriesContent) -> SeriesFacts:
    return SeriesFacts(series.id, series.is_result, series.headers)


def _part(series: SeriesContent, places: Sequence[int]) -> SeriesContent:
    """Return a series reduced to the instances that one job takes."""
    return replace(
        series,
        instance_ids=tuple(series.instance_ids[place] for place in places),
        digests=tuple(series.digests[place] for place in places),
        headers=tuple(series.headers[place] for place in places),
    )


def _assessments(
    package: ModelPackage, verdicts: Sequence[Verdict], chosen: Sequence[Verdict]
) -> Iterator[Assessment]:
    def written(verdict: Verdict, *, series_id: int | None) -> Assessment:
        return Assessment(
            series_id=series_id,
            model_name=package.name,
            model_version=package.version,
            task=package.task,
            eligible=verdict.eligible,
            chosen=verdict in chosen,
            score=verdict.score,
            reason=verdict.reason,
            message=verdict.message,
        )

    for verdict in verdicts:
        yield written(verdict, series_id=verdict.series_id)
    refusal = None if chosen else closest(verdicts)
    if refusal is not None:
        # The row without a series is the answer for the study as a whole.
        yield written(refusal, series_id=None)


def _repeat(
    connection: Transaction, series_id: int, package: ModelPackage, request: Request
) -> int:
    """Return the number that makes a forced run another job than the ones before it."""
    return jobs.count_runs(connection, series_id, package.name) if request.force else 0


def _job(
    content: StudyContent,
    series: SeriesContent,
    package: ModelPackage,
    decided: Route,
    settings: Settings,
    *,
    priority: Priority,
    repeat: int,
    is_wanted: bool,
) -> NewJob:
    choices = settings.models.of(package.name)
    point = package.manifest.operating_point(choices.operating_point)
    parameters: Mapping[str, Any] = {
        "operating_point": point.name,
        "clinical_use": settings.results.clinical_use,
        **({"repeat": repeat} if repeat else {}),
    }
    inputs = [
        {"instance_id": instance_id, "sha256": digest}
        for instance_id, digest in zip(series.instance_ids, series.digests, strict=True)
    ]
    return NewJob(
        id=derive_job_id(
            series_instance_uid=series.series_instance_uid,
            instance_digests=series.digests,
            model_sha256=package.sha256,
            parameters=parameters,
        ),
        study_id=content.id,
        series_id=series.id,
        task=package.task,
        model_name=package.name,
        model_version=package.version,
        model_sha256=package.sha256,
        parameters=parameters,
        inputs=inputs,
        priority=priority,
        destinations=decided.destinations if is_wanted and not choices.shadow else (),
        shadow=choices.shadow,
    )
