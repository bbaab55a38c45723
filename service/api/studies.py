"""Studies over HTTP: one study, its results, and running models on it again."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Response

from service.api.answers import answer
from service.api.context import Context
from service.api.routes import PREFIX, add
from service.api.schemas import RunAgain, StudyUid
from service.records import study_view
from service.records.study_view import ResultItem, StudyDetail
from service.studies.assessment import Request, run_again


@dataclass(frozen=True, slots=True)
class ResultList:
    """Result objects, newest first."""

    items: Sequence[ResultItem]
    next: None = None


@dataclass(frozen=True, slots=True)
class ScheduledJobs:
    """The jobs that will run; empty when no series suits a model that was asked for."""

    job_ids: Sequence[str]


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
                Request(asked.task, asked.model, asked.priority, asked.force),
                packages=list(context.shelf.packages().values()),
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
        f"POST {one}/jobs",
        handlers.run_study,
        gives=ScheduledJobs,
        problems=(404, 413, 422),
        status=202,
    )
    return routes
