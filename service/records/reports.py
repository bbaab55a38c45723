"""Results made anew from what a finished run kept: asked for here, written by a worker.

Each is a job of its own, with attempts, a lease and a fence like any other; it has no findings and
is never the study's current run, but its results take the place of the run's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, func, select

from service.core.errors import InvalidRequest
from service.core.identifiers import derive_job_id
from service.core.packages import ModelPackage
from service.core.settings import Settings
from service.core.states import JobState, Priority, ReportKind, ResultState
from service.records import jobs, results, reviews, succession
from service.records.jobs import NewJob
from service.records.tables import analyses, findings
from service.records.tables import jobs as job_rows
from service.records.tables import results as result_rows


@dataclass(frozen=True)
class ReportRequest:
    """A person's wish for new results; empty fields mean every run, and as it is in force.

    ``is_review`` says that the reader went through the study, whatever verdicts there are.
    """

    task: str | None = None
    model: str | None = None
    operating_point: str | None = None
    reviewer: str = ""
    is_review: bool = False
    priority: Priority | None = None


def make_anew(
    connection: Connection,
    study_id: int,
    request: ReportRequest,
    *,
    packages: Mapping[str, ModelPackage],
    settings: Settings,
    at: datetime,
) -> Sequence[str]:
    """Schedule new results of a study's current runs; return the ids of the jobs.

    The newest verdict on each finding counts. What is in force or waiting already, exactly so, is
    returned as it is.

    Raises
    ------
    InvalidRequest
        ``NOTHING_TO_REPORT`` when no run is finished or none kept its masks, ``OPERATING_POINT``
        when no model has such a point, ``MODEL_NOT_INSTALLED`` when the version is not here.
    """
    runs = _runs(connection, study_id, request)
    if not runs:
        raise InvalidRequest(
            "NOTHING_TO_REPORT", "no finished run of the study has kept what results are made of"
        )
    chosen = [run for run in runs if _has_point(run, request.operating_point, packages)]
    if not chosen:
        raise InvalidRequest("OPERATING_POINT", f"operating_point: {_points(runs, packages)}")
    job_ids = []
    for run in chosen:
        _require_installed(run, packages)
        parameters = _parameters(connection, run, request, settings)
        job_ids.append(_schedule(connection, run, parameters, request.priority, at))
    return job_ids


def make_again(connection: Connection, job_id: str, *, at: datetime) -> str | None:
    """Schedule a completed job's results anew when some of them are held back; return the job.

    None when nothing of the job is held back.
    """
    row = connection.execute(select(job_rows).where(job_rows.c.id == job_id)).first()
    if (
        row is None
        or row.state != JobState.COMPLETED
        or not results.quarantined(connection, job_id)
    ):
        return None
    run_id = row.report_of or row.id
    run = connection.execute(select(job_rows).where(job_rows.c.id == run_id)).one()
    wish = dict(row.parameters.get("report") or {"kind": ReportKind.ANEW})
    parameters = {**row.parameters, "report": {**wish, "repeat": _count(connection, run_id)}}
    return _schedule(connection, run, parameters, None, at)


def add_form(connection: Connection, delivery_result: int, *, at: datetime) -> str | None:
    """Schedule the forms that destinations take of the document that a result belongs to.

    None when the document is not in force any more, or its run kept nothing to make them of.
    """
    query = (
        select(result_rows.c.job_id, job_rows)
        .join_from(result_rows, job_rows, job_rows.c.id == result_rows.c.job_id)
        .where(result_rows.c.id == delivery_result, result_rows.c.state == ResultState.VALID)
    )
    document = connection.execute(query).first()
    if document is None:
        return None
    run_id = document.report_of or document.id
    waiting = _waiting_form(connection, run_id, document.id)
    if waiting is not None:
        return waiting
    if results.analysis_of(connection, run_id) is None:
        return None
    run = connection.execute(select(job_rows).where(job_rows.c.id == run_id)).one()
    wish = {
        **(document.parameters.get("report") or {}),
        "kind": ReportKind.FORM,
        "document": document.id,
        "repeat": _count(connection, run_id),
    }
    return _schedule(connection, run, {**document.parameters, "report": wish}, None, at)


def _waiting_form(connection: Connection, run_id: str, document: str) -> str | None:
    """Return a job that will make the missing forms of a document, if one has not started yet."""
    query = select(job_rows.c.id, job_rows.c.parameters).where(
        job_rows.c.report_of == run_id, job_rows.c.state == JobState.SCHEDULED
    )
    for row in connection.execute(query):
        if row.parameters["report"].get("document") == document:
            return str(row.id)
    return None


def withdraw(connection: Connection, study_id: int, model_name: str, *, at: datetime) -> None:
    """Schedule the withdrawal of a model's results on a study that it does not suit any more."""
    given_up = and_(
        job_rows.c.study_id == study_id,
        job_rows.c.model_name == model_name,
        job_rows.c.report_of.is_(None),
        ~job_rows.c.current,
        ~job_rows.c.shadow,
    )
    for run in connection.execute(select(job_rows).where(given_up)).all():
        if not succession.has_valid_results(connection, run.id):
            continue
        wish = {"kind": ReportKind.WITHDRAWAL, "repeat": _count(connection, run.id)}
        _schedule(connection, run, {**run.parameters, "report": wish}, None, at)


def _runs(connection: Connection, study_id: int, request: ReportRequest) -> Sequence[Row[Any]]:
    query = select(job_rows).where(
        job_rows.c.study_id == study_id,
        job_rows.c.current,
        ~job_rows.c.shadow,
        job_rows.c.state == JobState.COMPLETED,
        job_rows.c.id.in_(select(analyses.c.job_id)),
    )
    if request.task is not None:
        query = query.where(job_rows.c.task == request.task)
    if request.model is not None:
        query = query.where(job_rows.c.model_name == request.model)
    return connection.execute(query.order_by(job_rows.c.task, job_rows.c.id)).all()


def _has_point(run: Row[Any], name: str | None, packages: Mapping[str, ModelPackage]) -> bool:
    package = packages.get(run.model_name)
    if name is None or package is None:
        return name is None
    return name in {point.name for point in package.manifest.operating_points}


def _points(runs: Sequence[Row[Any]], packages: Mapping[str, ModelPackage]) -> str:
    known = {
        run.model_name: [point.name for point in package.manifest.operating_points]
        for run in runs
        if (package := packages.get(run.model_name)) is not None
    }
    told = [f"{name} has {', '.join(points)}" for name, points in known.items()]
    return "; ".join(told) or "no model of the study is installed any more"


def _require_installed(run: Row[Any], packages: Mapping[str, ModelPackage]) -> None:
    package = packages.get(run.model_name)
    if package is None or package.sha256 != run.model_sha256:
        raise InvalidRequest(
            "MODEL_NOT_INSTALLED",
            f"{run.model_name} {run.model_version} is not installed as it was run: run it again",
        )


def _parameters(
    connection: Connection, run: Row[Any], request: ReportRequest, settings: Settings
) -> dict[str, Any]:
    """Return all that decides what the new results say."""
    found = select(findings.c.id).where(findings.c.job_id == run.id)
    verdicts = reviews.newest_rows(connection, list(connection.execute(found).scalars()))
    is_review = request.is_review or bool(verdicts)
    reviewer = request.reviewer or _only_reviewer(connection, verdicts)
    in_force = jobs.recorded(connection, succession.document_in_force(connection, run.id))
    return {
        **{key: value for key, value in run.parameters.items() if key != "report"},
        "operating_point": request.operating_point or in_force.parameters["operating_point"],
        "report": {
            "kind": ReportKind.ANEW,
            "reviews": list(verdicts),
            "is_review": is_review,
            "reviewer": reviewer,
            "verified": is_review and bool(reviewer) and settings.results.verified_by_readers,
        },
    }


def _only_reviewer(connection: Connection, verdicts: Sequence[int]) -> str:
    named = {verdict.reviewer for verdict in reviews.of_rows(connection, verdicts)}
    return named.pop() if len(named) == 1 else ""


def _schedule(
    connection: Connection,
    run: Row[Any],
    parameters: Mapping[str, Any],
    priority: Priority | None,
    at: datetime,
) -> str:
    job_id = _id(run, parameters)
    known = connection.execute(select(job_rows.c.state).where(job_rows.c.id == job_id)).scalar()
    if known is not None:
        in_force = succession.document_in_force(connection, run.id) == job_id
        if in_force or known in (JobState.SCHEDULED, JobState.IN_PROGRESS):
            return job_id
        # The same was asked for before and gave way to something else since.
        wish = {**parameters["report"], "repeat": _count(connection, run.id)}
        parameters = {**parameters, "report": wish}
        job_id = _id(run, parameters)
    if parameters["report"]["kind"] == ReportKind.ANEW:
        jobs.cancel_waiting(connection, job_rows.c.report_of == run.id, at=at)
    new = NewJob(
        id=job_id,
        study_id=run.study_id,
        series_id=run.series_id,
        task=run.task,
        model_name=run.model_name,
        model_version=run.model_version,
        model_sha256=run.model_sha256,
        parameters=parameters,
        inputs=run.inputs,
        priority=priority or Priority(run.priority),
        destinations=run.destinations,
        report_of=run.id,
    )
    jobs.schedule(connection, new, at=at)
    return job_id


def _id(run: Row[Any], parameters: Mapping[str, Any]) -> str:
    return derive_job_id(
        series_instance_uid=run.id,
        instance_digests=[item["sha256"] for item in run.inputs],
        model_sha256=run.model_sha256,
        parameters=parameters,
    )


def _count(connection: Connection, run_id: str) -> int:
    """Return a number that no earlier report of the run has."""
    query = select(func.count()).select_from(job_rows).where(job_rows.c.report_of == run_id)
    return 1 + int(connection.execute(query).scalar_one())
