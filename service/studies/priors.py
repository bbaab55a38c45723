"""When a study is compared with earlier ones: what it waits for, and when its runs are repeated.

A study's own analysis never depends on a PACS. Its runs wait for an earlier study that is being
fetched or analysed for `priors.wait_s` at most; what comes later, up to `priors.give_up_s`, has
them run again, and the new report takes the place of the first.

Work that was only begun for a comparison (a fetched study, a prior that had not been analysed)
begins no comparison of its own, so that one study never pulls in a chain of others.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from service.core.identifiers import derive_job_id
from service.core.packages import ModelPackage
from service.core.priors import StudySummary, choose_priors, is_known
from service.core.settings import Settings
from service.core.states import JobState
from service.records import comparisons, jobs, priors
from service.records.comparisons import Comparison, ComparisonState
from service.records.database import Transaction
from service.records.jobs import Claim, NewJob
from service.records.priors import KnownStudy

# Packages whose findings have a place in the patient: only those can be found again.
_COMPARED_KINDS: Final = frozenset({"detection", "segmentation"})

_RUNNING: Final = (JobState.SCHEDULED, JobState.IN_PROGRESS)

# Schedules one model on a study for the sake of a comparison.
Analyse = Callable[[int, ModelPackage], Sequence[str]]


def begin_comparison(
    connection: Transaction,
    study_id: int,
    job_ids: Sequence[str],
    *,
    packages: Sequence[ModelPackage],
    settings: Settings,
    analyse: Analyse,
    at: datetime,
) -> None:
    """Have the earlier studies of a study that was just scheduled brought up, and wait for them.

    Priors in the archive that a model has not run on are scheduled through `analyse`; a configured
    PACS is asked for others.
    """
    rules = settings.priors
    comparable = _comparable(connection, job_ids, packages)
    if not rules.enabled or not comparable:
        return
    current = priors.summary_of(connection, study_id)
    if not is_known(current.patient):
        return
    chosen = _chosen(connection, current, list(comparable), settings)
    wanted = [package for package in packages if package.name in comparable.values()]
    needed = [_bring_up(connection, known, wanted, analyse) for known in chosen]
    fetch = rules.source is not None and rules.max_per_day > 0
    if not any(needed) and not fetch:
        return
    comparisons.begin(
        connection,
        study_id,
        job_ids=list(comparable),
        prior_study_uids=[known.summary.study_instance_uid for known in chosen],
        fetch=fetch,
        give_up_at=at + timedelta(seconds=rules.give_up_s),
        at=at,
    )
    if rules.wait_s > 0:
        comparisons.hold(connection, list(comparable), until=at + timedelta(seconds=rules.wait_s))


def _bring_up(
    connection: Transaction,
    known: KnownStudy,
    packages: Sequence[ModelPackage],
    analyse: Analyse,
) -> bool:
    """Have models run on a prior where they have not; return whether it is to be waited for."""
    if priors.arrived(connection, known.summary.study_instance_uid) is None:
        return True  # it is still coming in, or at work already
    missing = [
        package
        for package in packages
        if priors.earlier_run(connection, known.id, package.name) is None
    ]
    return any([bool(analyse(known.id, package)) for package in missing])


def advance_comparisons(connection: Transaction, *, settings: Settings, at: datetime) -> int:
    """Let runs go, or repeat them, whose earlier studies are ready; return how many changed."""
    changed = 0
    for waiting in comparisons.all_open(connection):
        if waiting.give_up_at <= at:
            comparisons.let_go(connection, waiting.job_ids, at=at)
            comparisons.close(connection, waiting, at=at)
            changed += 1
        elif waiting.state is ComparisonState.ANALYSING:
            changed += _advance(connection, waiting, settings, at)
    return changed


def _advance(connection: Transaction, waiting: Comparison, settings: Settings, at: datetime) -> int:
    """Let a study's runs go once its priors are ready; repeat those that had not waited."""
    here = [priors.arrived(connection, uid) for uid in waiting.prior_study_uids]
    if not all(here):
        return 0
    comparisons.let_go(connection, waiting.job_ids, at=at)
    runs = priors.runs(connection, waiting.job_ids)
    if any(run.state in _RUNNING for run in runs.values()):
        return 0  # what began before the prior was ready is looked at when it is over
    current = priors.summary_of(connection, waiting.study_id)
    for job_id, run in runs.items():
        if run.state is JobState.COMPLETED and run.current:
            _repeat(connection, job_id, current, settings, at)
    comparisons.close(connection, waiting, at=at)
    return 1


def _repeat(
    connection: Transaction, job_id: str, current: StudySummary, settings: Settings, at: datetime
) -> None:
    """Run a job again when an earlier study has come that it was not compared with."""
    held = jobs.recorded(connection, job_id)
    chosen = _chosen(connection, current, [job_id], settings)
    runs = [priors.earlier_run(connection, known.id, held.model_name) for known in chosen]
    newest = next((run for run in runs if run is not None), None)
    seen = priors.outcome_of(connection, job_id) or {}
    if newest is None or newest.job_id in seen.get("looked_at", ()):
        return
    again = _again(connection, held, newest.job_id)
    others = [one for one in priors.current_runs(connection, held.study_id) if one != job_id]
    keep = [*others, again.id]
    jobs.supersede(connection, held.study_id, held.model_name, keep=keep, at=at)
    jobs.schedule(connection, again, at=at)


def _again(connection: Transaction, held: Claim, compared_with: str) -> NewJob:
    parameters = {**held.parameters, "compared_with": compared_with}
    return NewJob(
        id=derive_job_id(
            series_instance_uid=priors.series_uid_of(connection, held.job_id),
            instance_digests=[str(item["sha256"]) for item in held.inputs],
            model_sha256=held.model_sha256,
            parameters=parameters,
        ),
        study_id=held.study_id,
        series_id=held.series_id,
        task=held.task,
        model_name=held.model_name,
        model_version=held.model_version,
        model_sha256=held.model_sha256,
        parameters=parameters,
        inputs=held.inputs,
        priority=held.priority,
        destinations=held.destinations,
        shadow=held.shadow,
    )


def _chosen(
    connection: Transaction, current: StudySummary, job_ids: Sequence[str], settings: Settings
) -> Sequence[KnownStudy]:
    known = priors.studies_of_patient(connection, current.patient.patient_id)
    by_uid = {one.summary.study_instance_uid: one for one in known}
    chosen = choose_priors(
        current,
        [one.summary for one in known],
        modalities=priors.modalities_of_runs(connection, job_ids),
        max_studies=settings.priors.max_studies,
        max_age_days=settings.priors.max_age_days,
    )
    return [by_uid[summary.study_instance_uid] for summary in chosen]


def _comparable(
    connection: Transaction, job_ids: Sequence[str], packages: Sequence[ModelPackage]
) -> dict[str, str]:
    """Return the model of each run that can be compared, by job id."""
    kinds = {package.name: package.manifest.package.kind for package in packages}
    return {
        job_id: run.model_name
        for job_id, run in priors.runs(connection, job_ids).items()
        if kinds.get(run.model_name) in _COMPARED_KINDS
    }
