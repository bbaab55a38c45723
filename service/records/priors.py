"""Earlier studies of a patient: which there are, and what runs were compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, func, select, update

from service.core.errors import LostClaim
from service.core.findings import ReportReference
from service.core.priors import PatientIdentity, StudySummary
from service.core.states import JobState
from service.records.jobs import Claim
from service.records.tables import (
    jobs,
    results,
    series,
    studies,
)

_RUNNING = (JobState.SCHEDULED, JobState.IN_PROGRESS)
# A patient with more studies than this is compared with the newest of them.
_MOST_STUDIES = 200


@dataclass(frozen=True)
class KnownStudy:
    """A study in the archive."""

    id: int
    summary: StudySummary


@dataclass(frozen=True)
class EarlierRun:
    """A completed run on an earlier study, and its report where one was written."""

    job_id: str
    study_id: int
    study_instance_uid: str
    study_date: str
    report: ReportReference | None


@dataclass(frozen=True)
class Run:
    """One model on one series."""

    model_name: str
    state: JobState
    current: bool


def summary_of(connection: Connection, study_id: int) -> StudySummary:
    """Return what is known of a study."""
    row = connection.execute(select(studies).where(studies.c.id == study_id)).one()
    return _known(row, _body_parts(connection, [study_id]).get(study_id, ())).summary


def modalities_of_runs(connection: Connection, job_ids: Sequence[str]) -> frozenset[str]:
    """Return the modalities that these runs read."""
    query = select(series.c.modality).join_from(jobs, series, series.c.id == jobs.c.series_id)
    return frozenset(connection.execute(query.where(jobs.c.id.in_(job_ids))).scalars())


def studies_of_patient(connection: Connection, patient_id: str) -> Sequence[KnownStudy]:
    """Return the studies under a patient's identifier, whoever issued it, the newest first."""
    rows = connection.execute(
        select(studies)
        .where(studies.c.patient_id == patient_id)
        .order_by(studies.c.study_date.desc(), studies.c.id.desc())
        .limit(_MOST_STUDIES)
    ).all()
    parts = _body_parts(connection, [row.id for row in rows])
    return [_known(row, parts.get(row.id, ())) for row in rows]


def earlier_run(connection: Connection, study_id: int, model_name: str) -> EarlierRun | None:
    """Return the newest completed run of a model on a study that is still current."""
    row = connection.execute(
        select(jobs.c.id, studies.c.study_instance_uid, studies.c.study_date)
        .join_from(jobs, studies, studies.c.id == jobs.c.study_id)
        .where(
            jobs.c.study_id == study_id,
            jobs.c.model_name == model_name,
            jobs.c.current,
            ~jobs.c.shadow,
            jobs.c.state == JobState.COMPLETED,
        )
        .order_by(jobs.c.ended_at.desc(), jobs.c.id)
        .limit(1)
    ).first()
    if row is None:
        return None
    return EarlierRun(
        row.id, study_id, row.study_instance_uid, row.study_date, _report_of(connection, row.id)
    )


def run_by_id(connection: Connection, job_id: str) -> EarlierRun | None:
    """Return a run that another one was compared with; None once it is deleted."""
    row = connection.execute(
        select(jobs.c.study_id, studies.c.study_instance_uid, studies.c.study_date)
        .join_from(jobs, studies)
        .where(jobs.c.id == job_id)
    ).first()
    if row is None:
        return None
    return EarlierRun(
        job_id, row.study_id, row.study_instance_uid, row.study_date, _report_of(connection, job_id)
    )


def write_outcome(connection: Connection, held: Claim, outcome: Mapping[str, Any]) -> None:
    """Keep with which earlier run a run was compared, or why with none."""
    mine = and_(jobs.c.id == held.job_id, jobs.c.fence == held.fence)
    done = connection.execute(update(jobs).where(mine).values(comparison=dict(outcome)))
    if done.rowcount == 0:
        raise LostClaim("FENCED", f"job {held.job_id} was taken over at fence {held.fence}")


def outcome_of(connection: Connection, job_id: str) -> Mapping[str, Any] | None:
    """Return with which earlier run a run was compared, or why with none; None where untold."""
    query = select(jobs.c.comparison).where(jobs.c.id == job_id)
    found: Mapping[str, Any] | None = connection.execute(query).scalar()
    return found


def runs(connection: Connection, job_ids: Sequence[str]) -> Mapping[str, Run]:
    """Return what is known of these runs, by job id."""
    query = select(jobs.c.id, jobs.c.model_name, jobs.c.state, jobs.c.current)
    rows = connection.execute(query.where(jobs.c.id.in_(job_ids)))
    return {row.id: Run(row.model_name, JobState(row.state), row.current) for row in rows}


def current_runs(connection: Connection, study_id: int) -> Sequence[str]:
    """Return the ids of a study's current runs."""
    query = select(jobs.c.id).where(jobs.c.study_id == study_id, jobs.c.current)
    return list(connection.execute(query).scalars())


def series_uid_of(connection: Connection, job_id: str) -> str:
    """Return the series that a run reads."""
    query = select(series.c.series_instance_uid).join_from(
        jobs, series, series.c.id == jobs.c.series_id
    )
    found: str = connection.execute(query.where(jobs.c.id == job_id)).scalar_one()
    return found


def waiting_runs(connection: Connection, study_id: int) -> int:
    """Return how many runs of a study have not ended."""
    query = select(func.count()).select_from(jobs)
    return connection.execute(
        query.where(jobs.c.study_id == study_id, jobs.c.current, jobs.c.state.in_(_RUNNING))
    ).scalar_one()


def arrived(connection: Connection, study_instance_uid: str) -> KnownStudy | None:
    """Return a study once all that came of it has been assessed and its runs have ended."""
    query = select(studies).where(studies.c.study_instance_uid == study_instance_uid)
    row = connection.execute(query).first()
    if row is None or row.completed_revision != row.revision or waiting_runs(connection, row.id):
        return None
    return _known(row, ())


def models_run_on(connection: Connection, study_instance_uid: str) -> frozenset[str]:
    """Return the models whose runs on a study are current."""
    query = select(jobs.c.model_name).join_from(jobs, studies)
    where = and_(studies.c.study_instance_uid == study_instance_uid, jobs.c.current)
    return frozenset(connection.execute(query.where(where)).scalars())


def _report_of(connection: Connection, job_id: str) -> ReportReference | None:
    row = connection.execute(
        select(results.c.series_instance_uid, results.c.sop_class_uid, results.c.sop_instance_uid)
        .where(results.c.job_id == job_id, results.c.role == "sr")
        .order_by(results.c.created_at.desc(), results.c.id.desc())
        .limit(1)
    ).first()
    if row is None:
        return None
    return ReportReference(
        series_instance_uid=row.series_instance_uid,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
    )


def _body_parts(connection: Connection, study_ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    query = select(series.c.study_id, series.c.body_part_examined).where(
        series.c.study_id.in_(study_ids), ~series.c.is_result, series.c.body_part_examined != ""
    )
    found: dict[int, tuple[str, ...]] = {}
    for row in connection.execute(query.distinct()):
        found[row.study_id] = (*found.get(row.study_id, ()), row.body_part_examined)
    return found


def _known(row: Row[Any], body_parts: Sequence[str]) -> KnownStudy:
    patient = PatientIdentity(row.patient_id, row.issuer_of_patient_id, row.patient_birth_date)
    return KnownStudy(
        row.id,
        StudySummary(
            study_instance_uid=row.study_instance_uid,
            patient=patient,
            study_date=row.study_date.replace(".", ""),
            study_time=row.study_time,
            modalities=tuple(name for name in row.modalities.split(",") if name),
            words=(*body_parts, row.study_description),
        ),
    )
