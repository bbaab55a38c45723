"""Jobs over HTTP: what runs, what waits, what failed and why."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.api.answers import answer
from service.api.context import Context
from service.api.routes import PREFIX, add
from service.api.schemas import LIMIT_DEFAULT, Cursor, JobId, Limit, NameFilter, StudyUidFilter
from service.core.states import JobState
from service.records import jobs, listings, reports
from service.records.listings import Filter, JobItem, JobPage


class JobRoutes:
    """Answers about jobs."""

    def __init__(self, context: Context) -> None:
        self._records = context.records
        self._clock = context.clock

    def list_jobs(
        self,
        state: Annotated[list[JobState] | None, Query(description="Any of these states")] = None,
        study_instance_uid: StudyUidFilter = None,
        task: NameFilter = None,
        model: NameFilter = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Response:
        """List jobs, newest first.

        Runs of models, in the states of the Unified Procedure Step (PS3.4 Annex CC) and two more:
        NOT_APPLICABLE, a clinical outcome, and FAILED, which waits for a person.
        """
        asked = Filter(study_instance_uid, tuple(state or ()), task, model)
        with self._records.reading() as connection:
            return answer(listings.job_page(connection, asked, limit=limit, cursor=cursor or None))

    def get_job(self, job_id: JobId) -> Response:
        """Get one job.

        Attempts, seconds by stage, worker, device, model digest and reason.
        """
        return self._job(job_id)

    def retry_job(self, job_id: JobId) -> Response:
        """Run a failed or canceled job again.

        Puts the job back in the queue with fresh attempts. Of a completed job whose results are
        held back, those are made anew by another job, which is answered.
        """
        with self._records.writing() as connection:
            again = reports.make_again(connection, job_id, at=self._clock.now())
            if again is None:
                jobs.retry(connection, job_id, at=self._clock.now())
        return self._job(again or job_id)

    def cancel_job(self, job_id: JobId) -> Response:
        """Cancel a job that is not over.

        A worker that has the job writes nothing more.
        """
        with self._records.writing() as connection:
            jobs.cancel(connection, job_id, at=self._clock.now())
        return self._job(job_id)

    def _job(self, job_id: str) -> Response:
        with self._records.reading() as connection:
            return answer(listings.job(connection, job_id))


def router(context: Context) -> APIRouter:
    """Return the routes of jobs."""
    routes, handlers = APIRouter(prefix=PREFIX, tags=["jobs"]), JobRoutes(context)
    moved = (404, 409, 422)
    add(routes, "GET /jobs", handlers.list_jobs, gives=JobPage, problems=(422,))
    add(routes, "GET /jobs/{job_id}", handlers.get_job, gives=JobItem, problems=(404, 422))
    add(routes, "POST /jobs/{job_id}/retry", handlers.retry_job, gives=JobItem, problems=moved)
    add(routes, "POST /jobs/{job_id}/cancel", handlers.cancel_job, gives=JobItem, problems=moved)
    return routes
