"""The whole story of one job, top to bottom: claim, read, analyse, write, hand over.

A job ends in one transaction: findings, results, deliveries and the final state together. Until
then nothing of it is seen, so that a worker may be killed at any line; the same job run again
gives the same bytes under the same UIDs. A job that makes a report anew takes what an earlier run
kept instead of running a network.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType

from service.core.clock import Clock
from service.core.errors import (
    ContractViolation,
    Disposition,
    InvalidModel,
    LostClaim,
    OverreadError,
)
from service.core.logs import get_logger
from service.core.settings import Settings
from service.core.states import JobState, ReportKind
from service.records import inputs, jobs, results, reviews, succession
from service.records.archive import Archive
from service.records.database import Records
from service.records.heartbeats import process_name
from service.records.jobs import Claim, Outcome
from workers.analysis import analyse, read_image, tracked
from workers.evidence import kept
from workers.handover import Desk, Document, hand_over, needs_pixels
from workers.keep_alive import kept_alive
from workers.models import LoadedModel
from workers.output import Content, context_of, display_of
from workers.priors.earlier import Shelf, with_priors
from workers.remake import Asked, Kept, remade
from workers.results.context import ResultContext, Review
from workers.turns import Turn, Turns

_JOB_ID = re.compile(r"[0-9a-f]{32}")
_FIRST_PAUSE_S = 2.0

log = get_logger()


@dataclass(frozen=True)
class InferContext:
    """What a worker process holds from job to job; models by name, loaded and warm."""

    settings: Settings
    records: Records
    archive: Archive
    clock: Clock
    models: Mapping[str, LoadedModel]
    device: str
    turns: Turns = field(default_factory=Turns)

    @property
    def desk(self) -> Desk:
        """What handing over takes."""
        return Desk(self.settings, self.records, self.archive, self.clock)


@dataclass
class Stopwatch:
    """Seconds spent in each stage of a job."""

    timings_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the body to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.timings_s[name] = round(self.timings_s.get(name, 0.0) + spent, 4)


_context: InferContext | None = None


def use(context: InferContext) -> None:
    """Set what the messages that this process takes are handled with."""
    global _context  # noqa: PLW0603  RQ calls `run` by name with the message's id alone
    _context = context


def run(job_id: str) -> None:
    """Handle one message; the entry point that the queue names."""
    if _context is None:
        raise ContractViolation("NOT_PREPARED", "this process takes no jobs")
    if _JOB_ID.fullmatch(job_id) is None:
        raise ContractViolation("QUEUE_MESSAGE", "a job id has 32 hexadecimal digits")
    infer(_context, job_id)


def infer(context: InferContext, job_id: str) -> None:
    """Run a job if it is there to be taken; the job's boundary: every error ends here."""
    lease = timedelta(seconds=context.settings.jobs.lease_s)
    with context.records.writing() as connection:
        held = jobs.claim(
            connection, job_id, worker=process_name("worker"), at=context.clock.now(), lease=lease
        )
    if held is None:
        return
    bound = log.bind(
        job_id=job_id, study_instance_uid=held.study_instance_uid, model=held.model_name,
        attempt=held.attempt,
    )  # fmt: skip
    bound.info("job_started")
    watch = Stopwatch()
    try:
        turn = Turn(context.turns)
        alone = held.attempt > 1
        with _claim_kept(context, held, lease, turn), turn.together(alone=alone):
            outcome = _outcome(context, held, watch, turn)
    except LostClaim as lost:
        bound.warning("claim_lost", reason=lost.reason)
        return
    bound.info("job_ended", state=outcome.state, reason=outcome.reason, detail=watch.timings_s)


def _outcome(context: InferContext, held: Claim, watch: Stopwatch, turn: Turn) -> Outcome:
    """Run the job and write how it ended."""
    try:
        if held.report_of is not None:
            return _report(context, held, watch)
        return _complete(context, held, watch, turn)
    except LostClaim:
        raise
    except OverreadError as error:
        if error.disposition is Disposition.NOT_APPLICABLE and held.report_of is None:
            return _refuse(context, held, watch, error)
        again = error.disposition is Disposition.RETRY or error.reason in _PASSING
        return _fail(context, held, error, again=again)
    except Exception as error:
        log.exception("job_raised", job_id=held.job_id)
        unexpected = ContractViolation("UNEXPECTED", f"{type(error).__name__} in the worker")
        return _fail(context, held, unexpected, again=True)


# Refusals that pass by themselves: the disk gets room, the database comes back.
_PASSING = frozenset({"DISK_LOW", "DISK_FULL", "DISK_ERROR", "DATABASE_AWAY"})


def _complete(context: InferContext, held: Claim, watch: Stopwatch, turn: Turn) -> Outcome:
    model = _model_of(context, held)
    with context.records.reading() as connection:
        instances = inputs.instances_of(connection, held)
        header = inputs.header_bytes_of(connection, held)
        earlier = succession.earlier_findings(connection, held)
    analysed = analyse(
        model,
        instances,
        archive=context.archive,
        job_id=held.job_id,
        operating_point=held.parameters.get("operating_point"),
        stage=turn.stages(watch.stage),
    )
    analysis = replace(analysed.analysis, findings=tracked(analysed.analysis.findings, earlier))
    with watch.stage("priors"):
        shelf = Shelf(context.settings.priors, context.records, context.archive)
        analysis = with_priors(shelf, held, analysis, analysed.image)
    drawn = needs_pixels(context.desk, held, reviewed=False)
    document = Document(
        held.job_id,
        _result_context(context, held, model, header),
        Content(analysis, analysed.frames, display_of(analysed.image) if drawn else None),
        found=analysis.findings,
        analysis=kept(analysis, analysed.frames),
    )
    outcome = _outcome_of(context, JobState.COMPLETED, watch, scores=analysis.scores)
    with watch.stage("results"):
        return hand_over(context.desk, held, document, outcome)


def _refuse(context: InferContext, held: Claim, watch: Stopwatch, error: OverreadError) -> Outcome:
    """End the job as not applicable, with a report that says why."""
    model = _model_of(context, held)
    with context.records.reading() as connection:
        instances = inputs.instances_of(connection, held)
        header = inputs.header_bytes_of(connection, held)
    document = Document(
        held.job_id,
        _result_context(context, held, model, header),
        Content(headers=[instance.header for instance in instances], refusal=error),
        found=(),
    )
    outcome = _outcome_of(context, JobState.NOT_APPLICABLE, watch, error=error)
    return hand_over(context.desk, held, document, outcome)


def _report(context: InferContext, held: Claim, watch: Stopwatch) -> Outcome:
    """Make the results of a finished run anew, as its operating point and readers have it now."""
    wish = held.parameters["report"]
    kind = ReportKind(wish["kind"])
    owner = wish.get("document") or held.job_id
    with context.records.reading() as connection:
        header = inputs.header_bytes_of(connection, held)
    if kind is ReportKind.WITHDRAWAL:
        base = _result_context(context, held, None, header, owner=owner)
        document = Document(owner, base, Content(), kind=kind)
    else:
        model = _model_of(context, held)
        base = _result_context(context, held, model, header, owner=owner)
        content, review = _again(context, held, model, watch)
        document = Document(owner, replace(base, review=review), content, kind=kind)
    with watch.stage("results"):
        done = _outcome_of(context, JobState.COMPLETED, watch)
        return hand_over(context.desk, held, document, done)


def _again(
    context: InferContext, held: Claim, model: LoadedModel, watch: Stopwatch
) -> tuple[Content, Review | None]:
    """Return what a run found as it is to be told now, and the review that this rests on."""
    asked = _asked(context, held)
    with context.records.reading() as connection:
        instances = inputs.instances_of(connection, held)
        found = results.of_job(connection, held.report_of or "")
        stored = results.analysis_of(connection, held.report_of or "")
    if stored is None:
        raise ContractViolation("EVIDENCE_GONE", "the run kept no masks: run it again")
    headers = [instance.header for instance in instances]
    again = remade(Kept(found, stored, headers), asked, model.package.manifest)
    display = None
    if needs_pixels(context.desk, held, reviewed=asked.is_review):
        with watch.stage("volume"):
            display = display_of(read_image(model, instances, context.archive))
    return Content(again.analysis, again.frames, display), again.review


def _asked(context: InferContext, held: Claim) -> Asked:
    """Return what a report is asked to say, from the job's own row."""
    wish = held.parameters["report"]
    with context.records.reading() as connection:
        verdicts = reviews.of_rows(connection, wish.get("reviews", ()))
    return Asked(
        operating_point=held.parameters["operating_point"],
        verdicts={verdict.finding_id: verdict for verdict in verdicts},
        is_review=wish.get("is_review", False),
        reviewer=wish.get("reviewer", ""),
        verified=wish.get("verified", False),
        organization=context.settings.results.organization,
        asked_at=held.created_at,
    )


def _fail(context: InferContext, held: Claim, error: OverreadError, *, again: bool) -> Outcome:
    """Put the job back while it has attempts left and a repeat may help; else fail it."""
    now = context.clock.now()
    repeat = again and held.attempt < context.settings.jobs.max_attempts
    state = JobState.SCHEDULED if repeat else JobState.FAILED
    outcome = Outcome(state, reason=error.reason, message=error.message, device=context.device)
    with context.records.writing() as connection:
        if repeat:
            pause = timedelta(seconds=_FIRST_PAUSE_S * 2 ** (held.attempt - 1))
            jobs.try_later(connection, held, outcome, due_at=now + pause, at=now)
        else:
            jobs.finish(connection, held, outcome, at=now)
    return outcome


def _outcome_of(
    context: InferContext,
    state: JobState,
    watch: Stopwatch,
    *,
    scores: Mapping[str, float] = MappingProxyType({}),
    error: OverreadError | None = None,
) -> Outcome:
    return Outcome(
        state,
        reason=error.reason if error else "",
        message=error.message if error else "",
        device=context.device,
        timings_s=watch.timings_s,
        scores=scores,
    )


def _result_context(
    context: InferContext, held: Claim, model: LoadedModel | None, header: bytes, *, owner: str = ""
) -> ResultContext:
    """Return what the results say of their origin.

    The station is the AE title: the same on every worker that may repeat a job.
    """
    station = context.settings.dicom.ae_title
    described = None if model is None else model.package.manifest.package
    return context_of(held, described, header, document=owner or held.job_id, station=station)


def _model_of(context: InferContext, held: Claim) -> LoadedModel:
    model = context.models.get(held.model_name)
    if model is None or model.package.sha256 != held.model_sha256:
        raise InvalidModel(
            "MODEL_NOT_INSTALLED",
            f"{held.model_name} {held.model_version} is not installed here as it was scheduled",
        )
    return model


@contextmanager
def _claim_kept(context: InferContext, held: Claim, lease: timedelta, turn: Turn) -> Iterator[None]:
    """Extend the lease while the body runs; end the process when native code overruns."""

    def extend() -> bool:
        with context.records.writing() as connection:
            return jobs.extend(connection, held, until=context.clock.now() + lease)

    def on_overrun() -> None:
        limit_s = context.settings.jobs.timeout_s
        late = ContractViolation("TIMEOUT", f"the job ran for longer than {limit_s:g} s")
        _fail(context, held, late, again=True)

    with kept_alive(
        extend,
        every_s=lease.total_seconds() / 3,
        limit_s=context.settings.jobs.timeout_s,
        on_overrun=on_overrun,
        waited_s=turn.waited_s,
    ):
        yield
