"""The comparison of one run with what is in the archive of the patient's earlier studies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.core.errors import LostClaim, OverreadError, UnsuitableSeries
from service.core.findings import Analysis
from service.core.identifiers import finding_id, tracking_uid
from service.core.logs import get_logger
from service.core.priors import StudySummary, choose_priors, is_known
from service.core.settings import PriorsSettings
from service.records import inputs, jobs, priors, results
from service.records.archive import Archive
from service.records.database import Records
from service.records.inputs import ArchivedInstance
from service.records.jobs import Claim
from service.records.priors import EarlierRun
from workers.priors.comparison import EarlierStudy, compared
from workers.priors.registration import Prepared, prepare, register
from workers.volume.pixels import SourceInstance
from workers.volume.plan import VolumeRules
from workers.volume.radiograph import Radiograph
from workers.volume.series import Volume, load_volume

# An earlier scan was good enough for the model then; here it only has to show where things were.
_RULES = VolumeRules(allow_resampling=True)

log = get_logger()


@dataclass(frozen=True)
class Shelf:
    """Where earlier studies are found, and how many of them are looked at."""

    settings: PriorsSettings
    records: Records
    archive: Archive


def with_priors(
    shelf: Shelf, held: Claim, analysis: Analysis, image: Volume | Radiograph
) -> Analysis:
    """Return the analysis compared with the newest earlier run that can be laid over the image.

    With which one, or why with none, is kept in the job's row. Whatever goes wrong with an earlier
    study never stops the current one: it is told as it is.
    """
    if not shelf.settings.enabled or not isinstance(image, Volume):
        return analysis
    with shelf.records.reading() as connection:
        current = priors.summary_of(connection, held.study_id)
        runs = _runs_to_look_at(shelf, held, current)
    if not runs:
        _keep(shelf, held, {"state": "no_prior"})
        return analysis
    analysis, outcome = _first_that_fits(shelf, held, analysis, (image, current.study_date), runs)
    _keep(shelf, held, {**outcome, "looked_at": [run.job_id for run in runs]})
    return analysis


def replayed(shelf: Shelf, held: Claim, analysis: Analysis, image: Volume | Radiograph) -> Analysis:
    """Compare with the very run that a finished job was compared with, and write nothing."""
    with shelf.records.reading() as connection:
        outcome = priors.outcome_of(connection, held.job_id) or {}
        current = priors.summary_of(connection, held.study_id)
        run = priors.run_by_id(connection, str(outcome.get("job_id", "")))
    if run is None or not isinstance(image, Volume):
        return analysis
    return _compared(shelf, held, analysis, (prepare(image), current.study_date), run)[0]


def _runs_to_look_at(shelf: Shelf, held: Claim, current: StudySummary) -> list[EarlierRun]:
    if not is_known(current.patient):
        return []
    with shelf.records.reading() as connection:
        known = priors.studies_of_patient(connection, current.patient.patient_id)
        by_uid = {one.summary.study_instance_uid: one.id for one in known}
        chosen = choose_priors(
            current,
            [one.summary for one in known],
            modalities=priors.modalities_of_runs(connection, [held.job_id]),
            max_studies=shelf.settings.max_studies,
            max_age_days=shelf.settings.max_age_days,
        )
        runs = [
            priors.earlier_run(connection, by_uid[one.study_instance_uid], held.model_name)
            for one in chosen
        ]
    return [run for run in runs if run is not None]


def _first_that_fits(
    shelf: Shelf,
    held: Claim,
    analysis: Analysis,
    image: tuple[Volume, str],
    runs: list[EarlierRun],
) -> tuple[Analysis, Mapping[str, Any]]:
    """Compare with the newest run that can be; else say why the newest could not."""
    volume, study_date = image
    try:
        ready = prepare(volume)
    except Exception:
        log.exception("comparison_failed", job_id=held.job_id)
        return analysis, _not_compared(runs[0], "COMPARISON_FAILED", "this scan defied comparison")
    reasons = []
    for run in runs:
        try:
            return _compared(shelf, held, analysis, (ready, study_date), run)
        except LostClaim:
            raise
        except OverreadError as error:
            reasons.append(_not_compared(run, error.reason, error.message))
        except Exception:
            # The current study's report must not depend on an earlier study's oddities.
            log.exception("comparison_failed", job_id=held.job_id)
            reasons.append(
                _not_compared(run, "COMPARISON_FAILED", "the earlier study defied comparison")
            )
    return analysis, reasons[0]


def _compared(
    shelf: Shelf, held: Claim, analysis: Analysis, image: tuple[Prepared, str], run: EarlierRun
) -> tuple[Analysis, Mapping[str, Any]]:
    with shelf.records.reading() as connection:
        earlier = jobs.recorded(connection, run.job_id)
        instances = inputs.instances_of(connection, earlier)
        found = tuple(results.of_job(connection, run.job_id))
    if held.series_id == earlier.series_id:
        raise UnsuitableSeries("SAME_SERIES", "the earlier run was on the same series")
    ready, study_date = image
    registration = register(prepare(_volume(shelf, instances)), ready)
    study = EarlierStudy(run.study_instance_uid, run.study_date, found, run.report)
    result = compared(
        analysis,
        study,
        registration,
        study_date=study_date,
        identify=lambda rank: (finding_id(held.job_id, rank), tracking_uid(held.job_id, rank)),
    )
    return result, {
        "state": "compared",
        "job_id": run.job_id,
        "study_instance_uid": run.study_instance_uid,
        "study_date": run.study_date,
        "by": registration.landmark.value,
        "correlation": round(registration.whole.correlation, 3),
        "covered": round(registration.whole.covered, 3),
    }


def _volume(shelf: Shelf, instances: tuple[ArchivedInstance, ...]) -> Volume:
    sources = [
        SourceInstance(item.header, shelf.archive.path_of(item.path), item.sha256)
        for item in instances
    ]
    return load_volume(sources, _RULES, verify=True)


def _not_compared(run: EarlierRun, reason: str, message: str) -> Mapping[str, Any]:
    return {
        "state": "not_compared",
        "study_instance_uid": run.study_instance_uid,
        "study_date": run.study_date,
        "reason": reason,
        "message": message,
    }


def _keep(shelf: Shelf, held: Claim, outcome: Mapping[str, Any]) -> None:
    with shelf.records.writing() as connection:
        priors.write_outcome(connection, held, outcome)
