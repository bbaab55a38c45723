"""Studies over HTTP: one study, its results, and running models on it again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.answers import answer
from service.api.context import Context, asker
from service.api.routes import PREFIX, add
from service.api.schemas import LabelsBody, ReadingBody, ReportBody, RunAgain, StudyUid
from service.records import marks, reports, study_view
from service.records.marks import LabelCount, Marks
from service.records.reports import ReportRequest
from service.records.study_view import ResultItem, StudyDetail
from service.studies import assessment
from service.studies.assessment import complete_now, run_again


@dataclass(frozen=True, slots=True)
class ResultList:
    """Result objects, newest first."""

    items: Sequence[ResultItem]
    next: None = None


@dataclass(frozen=True, slots=True)
class ScheduledJobs:
    """The jobs that will run; empty when no series suits a model that was asked for."""

    job_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class LabelList:
    """Labels with how many studies have them."""

    items: Sequence[LabelCount]
    next: None = None


class StudyRoutes:
    """Answers about one study."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def get_study(self, study_instance_uid: StudyUid) -> Response:
        """Get one study.

        The study, its series, what was eligible for which model and, where not, why.
        """
        with self._context.records.reading() as connection:
            return answer(study_view.detail(connection, study_instance_uid))

    def list_results(self, study_instance_uid: StudyUid) -> Response:
        """List result objects of a study and their deliveries.

        Every SR, SEG or other object written for the study, and where each went.
        """
        with self._context.records.reading() as connection:
            return answer(ResultList(study_view.result_items(connection, study_instance_uid)))

    def run_study(self, study_instance_uid: StudyUid, body: RunAgain | None = None) -> Response:
        """Run models on a study (again).

        Schedules the models asked for on the series that suit them. A run that is finished with
        exactly these instances, this model and these settings is returned as it is, unless
        `force` asks for it again.
        """
        asked = body or RunAgain()
        context = self._context
        with context.records.writing() as connection:
            job_ids = run_again(
                connection,
                study_view.study_key(connection, study_instance_uid),
                assessment.Request(asked.task, asked.model, asked.priority, asked.force),
                packages=list(context.shelf.packages().values()),
                settings=context.settings,
                at=context.clock.now(),
            )
        return answer(ScheduledJobs(job_ids), status=202)

    def complete_study(self, study_instance_uid: StudyUid) -> Response:
        """Take a study for complete.

        Does not wait for the quiet time after its last instance; one that comes later opens it
        again. 409 when it is complete already.
        """
        context = self._context
        with context.records.writing() as connection:
            job_ids = complete_now(
                connection,
                study_view.study_key(connection, study_instance_uid),
                packages=list(context.shelf.packages().values()),
                settings=context.settings,
                at=context.clock.now(),
            )
        return answer(ScheduledJobs(job_ids), status=202)

    def label_study(
        self, study_instance_uid: StudyUid, body: LabelsBody, request: Request
    ) -> Response:
        """Set the labels of a study.

        Those given and no others; the worklist filters by them.
        """
        at, by = self._context.clock.now(), asker(request)
        with self._context.records.writing() as connection:
            key = study_view.study_key(connection, study_instance_uid)
            marks.set_labels(connection, key, body.labels, by=by, at=at)
            return answer(marks.of_studies(connection, [key]).get(key, marks.NOTHING))

    def set_reading(
        self, study_instance_uid: StudyUid, body: ReadingBody, request: Request
    ) -> Response:
        """Say how far a person is with a study."""
        at, reader = self._context.clock.now(), asker(request) or body.reader
        with self._context.records.writing() as connection:
            key = study_view.study_key(connection, study_instance_uid)
            marks.set_reading(connection, key, body.state, reader=reader, at=at)
            return answer(marks.of_studies(connection, [key]).get(key, marks.NOTHING))

    def list_labels(self) -> Response:
        """List the labels in use.

        The most used first.
        """
        with self._context.records.reading() as connection:
            return answer(LabelList(marks.known_labels(connection)))

    def make_reports(
        self, study_instance_uid: StudyUid, body: ReportBody | None = None
    ) -> Response:
        """Make results anew, without running a network.

        New SR, SEG and whatever else destinations get, from the candidates and masks that the
        study's current runs kept: at the operating point asked for, with the newest verdict on
        each finding. They name what they take the place of.
        """
        asked = body or ReportBody()
        context = self._context
        request = ReportRequest(
            task=asked.task,
            model=asked.model,
            operating_point=asked.operating_point,
            reviewer=asked.reviewer,
            is_review=asked.reviewed,
            priority=asked.priority,
        )
        with context.records.writing() as connection:
            job_ids = reports.make_anew(
                connection,
                study_view.study_key(connection, study_instance_uid),
                request,
                packages=context.shelf.packages(),
                settings=context.settings,
                at=context.clock.now(),
            )
        return answer(ScheduledJobs(job_ids), status=202)


def router(context: Context) -> APIRouter:
    """Return the routes of one study."""
    routes, handlers = APIRouter(prefix=PREFIX, tags=["studies"]), StudyRoutes(context)
    one = "/studies/{study_instance_uid}"
    add(routes, f"GET {one}", handlers.get_study, gives=StudyDetail, problems=(404, 422))
    add(routes, f"GET {one}/results", handlers.list_results, gives=ResultList, problems=(404, 422))
    add(
        routes,
        f"POST {one}/reports",
        handlers.make_reports,
        gives=ScheduledJobs,
        problems=(404, 413, 422),
        status=202,
    )
    add(
        routes,
        f"POST {one}/jobs",
        handlers.run_study,
        gives=ScheduledJobs,
        problems=(404, 413, 422),
        status=202,
    )
    add(
        routes,
        f"POST {one}/complete",
        handlers.complete_study,
        gives=ScheduledJobs,
        problems=(404, 409, 413, 422),
        status=202,
    )
    marked: dict[str, Any] = {"gives": Marks, "problems": (404, 413, 422)}
    add(routes, f"PUT {one}/labels", handlers.label_study, **marked)
    add(routes, f"PUT {one}/reading", handlers.set_reading, **marked)
    add(routes, "GET /labels", handlers.list_labels, gives=LabelList)
    return routes
