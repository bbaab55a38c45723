"""Metrics for Prometheus: counts out of the database at the scrape, and this process's answers.

No label holds an identifier: models, states, destinations, devices and route patterns only.
"""

import threading
import time
from collections.abc import Iterator
from typing import Final

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.context import Context
from service.api.health import ALIVE_WITHIN
from service.api.problems import route_of
from service.core.errors import OverreadError
from service.records import statistics
from service.records.statistics import Gauges

# A scrape counts rows; several scrapers within this time share one count.
_FRESH_S: Final = 5.0
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class HttpMetrics:
    """Counts this process's answers and how long they took, by route pattern."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answers = Counter(
            "overread_http_answers",
            "Answers by method, route and status.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "overread_http_answer_seconds",
            "Time to the end of an answer, by route.",
            ("route",),
            buckets=_BUCKETS,
            registry=registry,
        )

    def note(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one answer; a route that was not matched has one name for all."""
        route = route_of(scope)
        method = scope["method"] if route != "unmatched" else "any"
        self._answers.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


class Measured:
    """Plain ASGI that notes status and duration of every answer."""

    def __init__(self, app: ASGIApp, http: HttpMetrics) -> None:
        self._app = app
        self._http = http

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and note how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        start = time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._http.note(scope, status, time.perf_counter() - start)


class DatabaseCollector(Collector):
    """Reads the gauges from the database; without it, says only that it is away."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._read: Gauges | None = None
        self._read_at = float("-inf")

    def describe(self) -> Iterator[Metric]:
        """Name nothing beforehand: registering must not ask the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield what stands where."""
        gauges = self._gauges()
        yield GaugeMetricFamily(
            "overread_database_up", "Whether the database answered.", float(gauges is not None)
        )
        if gauges is not None:
            yield from self._families(gauges)

    def _gauges(self) -> Gauges | None:
        with self._lock:
            if time.monotonic() - self._read_at < _FRESH_S:
                return self._read
            since = self._context.clock.now() - ALIVE_WITHIN
            try:
                with self._context.records.reading() as connection:
                    self._read = statistics.gauges(connection, alive_since=since)
            except OverreadError:
                self._read = None
            self._read_at = time.monotonic()
            return self._read

    def _families(self, gauges: Gauges) -> Iterator[Metric]:
        studies = GaugeMetricFamily("overread_studies", "Studies by state.", labels=["state"])
        for state, number in gauges.studies.items():
            studies.add_metric([state], number)
        yield studies
        jobs = GaugeMetricFamily(
            "overread_jobs", "Jobs by task, model and state.", labels=["task", "model", "state"]
        )
        for task, model, state, number in gauges.jobs:
            jobs.add_metric([task, model, state], number)
        yield jobs
        oldest = GaugeMetricFamily(
            "overread_queue_oldest_seconds",
            "How long the oldest waiting job has been due.",
            labels=["priority"],
        )
        now = self._context.clock.now()
        for priority, due_at in gauges.oldest_waiting_at.items():
            oldest.add_metric([priority], max(0.0, (now - due_at).total_seconds()))
        yield oldest
        deliveries = GaugeMetricFamily(
            "overread_deliveries",
            "Deliveries by destination and state.",
            labels=["destination", "state"],
        )
        for destination, state, number in gauges.deliveries:
            deliveries.add_metric([destination, state], number)
        yield deliveries
        results = GaugeMetricFamily(
            "overread_results",
            "Result objects by role and state; QUARANTINED ones did not pass their checks.",
            labels=["role", "state"],
        )
        for role, state, number in gauges.results:
            results.add_metric([role, state], number)
        yield results
        processes = GaugeMetricFamily(
            "overread_processes", "Live processes by role and device.", labels=["role", "device"]
        )
        for role, device, number in gauges.workers:
            processes.add_metric([role, device], number)
        yield processes


def router(registry: CollectorRegistry) -> APIRouter:
    """Return the route that Prometheus scrapes."""
    routes = APIRouter(tags=["health"])

    @routes.get(
        "/metrics",
        operation_id="getMetrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    def get_metrics() -> Response:
        """Return counts of studies, jobs, deliveries and answers; no identifiers."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes


def new_registry(context: Context) -> CollectorRegistry:
    """Return a registry with this process's and the database's figures."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(DatabaseCollector(context))
    return registry
