"""Run a finished job again from what was recorded of it, and compare what is found."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from service.core.errors import InvalidModel, InvalidRequest
from service.core.findings import Finding
from service.core.packages import installed_packages
from service.core.settings import Settings
from service.core.states import JobState
from service.records import inputs, jobs, results, succession
from service.records.archive import Archive
from service.records.database import Records
from service.records.jobs import Claim
from workers.analysis import analyse, tracked
from workers.models import LoadedModel, choose_device, load_model
from workers.priors.earlier import Shelf, replayed


@dataclass(frozen=True)
class Replay:
    """What was found then and now."""

    job_id: str
    recorded: tuple[Finding, ...]
    repeated: tuple[Finding, ...]

    @property
    def is_identical(self) -> bool:
        """Whether every finding is the same in every value."""
        return self.recorded == self.repeated

    def differences(self) -> Iterator[str]:
        """Yield a line for each finding that is missing, new or different."""
        then = {finding.id: finding for finding in self.recorded}
        now = {finding.id: finding for finding in self.repeated}
        for finding_id in sorted(then.keys() | now.keys()):
            before, after = then.get(finding_id), now.get(finding_id)
            if before is None or after is None:
                yield f"{finding_id}: only {'recorded' if after is None else 'in the repeat'}"
            elif before != after:
                fields = [
                    name
                    for name in type(before).model_fields
                    if getattr(before, name) != getattr(after, name)
                ]
                yield f"{finding_id}: differs in {', '.join(fields)}"


def replay(settings: Settings, job_id: str) -> Replay:
    """Repeat a completed job; nothing is written.

    Raises
    ------
    NotFound, InvalidRequest, InvalidModel
        ``JOB_UNKNOWN``; ``JOB_STATE`` for a job that did not complete; ``MODEL_NOT_INSTALLED``
        when the package of that digest is not here any more.
    """
    records = Records(settings.database_url)
    try:
        with records.reading() as connection:
            held = jobs.recorded(connection, job_id)
            state = jobs.state_of(connection, job_id)
            if state is not JobState.COMPLETED or held.report_of is not None:
                told = state if held.report_of is None else "a report made anew"
                raise InvalidRequest("JOB_STATE", f"job is {told}; allowed: COMPLETED runs")
            instances = inputs.instances_of(connection, held)
            recorded = tuple(results.of_job(connection, job_id))
            earlier = succession.earlier_findings(connection, held)
        model = _model(settings, held)
        analysed = analyse(
            model,
            instances,
            archive=Archive(settings.data_dir),
            job_id=job_id,
            operating_point=held.parameters.get("operating_point"),
            stage=_untimed,
        )
        analysis = replace(analysed.analysis, findings=tracked(analysed.analysis.findings, earlier))
        shelf = Shelf(settings.priors, records, Archive(settings.data_dir))
        again = replayed(shelf, held, analysis, analysed.image)
        return Replay(job_id, recorded, again.findings)
    finally:
        records.close()


def _model(settings: Settings, held: Claim) -> LoadedModel:
    for package in installed_packages(settings.models.dir):
        if package.sha256 == held.model_sha256:
            device = choose_device(settings.jobs.device)
            return load_model(package, device=device, threads=settings.jobs.threads)
    raise InvalidModel(
        "MODEL_NOT_INSTALLED", f"{held.model_name} {held.model_version} is not installed as it was"
    )


@contextmanager
def _untimed(_stage: str) -> Iterator[None]:
    yield
