"""The administrator's desk over HTTP: queues, destinations, rules tried dry, disk and retention."""

import importlib
import importlib.util
import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import Field

from service.api.answers import answer
from service.api.context import Context, asker
from service.api.routes import PREFIX, add
from service.api.schemas import TopicName, TryRules
from service.core.errors import InvalidRequest, NotFound, OverreadError, PeerUnavailable
from service.core.identifiers import is_ae_title
from service.core.profiles import adapted
from service.core.settings import Condition, Destination, RoutingRule
from service.records import controls, desk, destinations, study_view
from service.records.desk import DestinationTraffic, Kept, QueueLine
from service.records.destinations import SeenClass
from service.studies import dry_run
from service.studies.dry_run import Trial

# The half of the product that sends; named as the queue names its targets, never imported above.
_REACH: Final = "workers.delivery.reach"
_NO_TRAFFIC: Final = DestinationTraffic({}, None, None)
_DICOM_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/dicom": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@dataclass(frozen=True, slots=True)
class QueueList:
    """The queues as they stand."""

    items: Sequence[QueueLine]
    next: None = None


@dataclass(frozen=True, slots=True)
class Retried:
    """How many jobs went back in the queue."""

    jobs: int


@dataclass(frozen=True, slots=True)
class DestinationItem:
    """A destination of the settings, without its secrets, and what went there."""

    name: str
    kind: Annotated[str, Field(examples=["DICOM"])]
    address: Annotated[str, Field(examples=["PACS@10.0.0.7:104"])]
    encrypted: bool
    objects: Sequence[str]
    rules: Sequence[Condition]
    only_reviewed: Annotated[bool, Field(description="Gets only what a reader has reviewed")]
    classes: Annotated[
        Sequence[SeenClass], Field(description="SOP classes it was seen to take or refuse")
    ]
    instead: Annotated[
        Sequence[str], Field(description="What goes out in place of refused classes, for 7 days")
    ]
    traffic: DestinationTraffic


@dataclass(frozen=True, slots=True)
class DestinationList:
    """Destinations in the order of the settings."""

    items: Sequence[DestinationItem]
    next: None = None


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether a destination answers now."""

    name: str
    answers: bool
    detail: Annotated[str, Field(examples=["answers C-ECHO"])]
    seconds: float


@dataclass(frozen=True, slots=True)
class RuleList:
    """The routing rules in their order; the first that holds decides."""

    items: Sequence[RoutingRule]
    next: None = None


@dataclass(frozen=True, slots=True)
class Storage:
    """The disk, what is kept on it, and for how long."""

    total_bytes: int
    free_bytes: int
    least_free_bytes: Annotated[int, Field(description="Below it nothing is received")]
    keep_days: int
    kept: Kept


class QueueRoutes:
    """Answers about queues."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def list_queues(self) -> Response:
        """List the queues.

        How much waits and since when, how much runs, what needs a person, and whether somebody
        paused it.
        """
        with self._context.records.reading() as connection:
            return answer(QueueList(desk.queue_lines(connection)))

    def pause_queue(self, topic: TopicName, request: Request) -> Response:
        """Pause a queue.

        It hands out nothing until it is resumed, over restarts too; what runs goes on.
        """
        with self._context.records.writing() as connection:
            at = self._context.clock.now()
            controls.pause(connection, topic, by=asker(request), at=at)
        return self.list_queues()

    def resume_queue(self, topic: TopicName) -> Response:
        """Let a paused queue go on."""
        with self._context.records.writing() as connection:
            controls.resume(connection, topic)
        return self.list_queues()

    def retry_failed_jobs(self) -> Response:
        """Run every failed job again.

        The oldest first and up to 500 at once, each with fresh attempts.
        """
        with self._context.records.writing() as connection:
            return answer(Retried(desk.retry_failed(connection, at=self._context.clock.now())))


class RouteRoutes:
    """Answers about where studies and results go."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def list_destinations(self) -> Response:
        """List destinations.

        As the settings name them, with how many deliveries are in which state, the last one
        that arrived and the last error.
        """
        with self._context.records.reading() as connection:
            seen = desk.traffic(connection)
            classes = destinations.seen(connection)
            refused = destinations.refused(connection, at=self._context.clock.now())
        return answer(
            DestinationList(
                [
                    _item(
                        one,
                        seen.get(one.name),
                        [each for each in classes if each.destination == one.name],
                        refused.get(one.name, frozenset()),
                    )
                    for one in self._context.settings.destinations
                ]
            )
        )

    def check_destination(self, name: str) -> Response:
        """Ask a destination for an answer.

        C-ECHO, or an HTTP request, as the sender would reach it; nothing of a patient is sent.
        """
        asked = [one for one in self._context.settings.destinations if one.name == name]
        if not asked:
            raise NotFound("DESTINATION_UNKNOWN", "no destination of this name in the settings")
        return answer(reach(asked[0], self._context.settings.dicom.ae_title))

    def list_rules(self) -> Response:
        """List routing rules."""
        return answer(RuleList(self._context.settings.routing))

    def try_rules(self, body: TryRules) -> Response:
        """Try the rules on a stored study.

        Which rule decides and why, which models would run and where results would go. Nothing is
        changed.
        """
        context = self._context
        with context.records.reading() as connection:
            key = study_view.study_key(connection, body.study_instance_uid)
            return answer(
                dry_run.of_study(
                    connection,
                    key,
                    packages=context.shelf.packages(),
                    settings=context.settings,
                )
            )

    def try_rules_on_file(
        self,
        content: Annotated[bytes, Body(media_type="application/dicom")],
        calling_ae_title: Annotated[
            str, Query(max_length=16, description="As if sent by this application entity")
        ] = "",
    ) -> Response:
        """Try the rules on a DICOM file.

        Of the file, the part up to its pixels is enough. Nothing is kept.
        """
        if calling_ae_title and not is_ae_title(calling_ae_title):
            raise InvalidRequest("INVALID_REQUEST", "calling_ae_title: not an AE title")
        context = self._context
        with context.records.reading() as connection:
            settings = controls.in_force(connection, context.settings)
        packages = context.shelf.packages()
        return answer(
            dry_run.of_file(content, calling_ae_title, packages=packages, settings=settings)
        )


class StorageRoutes:
    """Answers about the disk."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def get_storage(self) -> Response:
        """Get disk and retention.

        How much room there is, how long studies stay, and what goes next.
        """
        settings, at = self._context.settings, self._context.clock.now()
        with self._context.records.reading() as connection:
            kept = desk.kept(connection, at=at, keep=settings.retention.keep)
        disk = shutil.disk_usage(settings.data_dir)
        least = settings.retention.min_free_bytes
        return answer(Storage(disk.total, disk.free, least, settings.retention.keep_days, kept))


def router(context: Context) -> APIRouter:
    """Return the routes of the administrator's desk."""
    routes = APIRouter(prefix=PREFIX)
    _add_queues(routes, QueueRoutes(context))
    _add_rules(routes, RouteRoutes(context))
    storage = StorageRoutes(context)
    add(routes, "GET /storage", storage.get_storage, gives=Storage, tag="desk")
    return routes


def _add_queues(routes: APIRouter, queues: QueueRoutes) -> None:
    one = "/queues/{topic}"
    add(routes, "GET /queues", queues.list_queues, gives=QueueList, tag="desk")
    for verb, handler in (("pause", queues.pause_queue), ("resume", queues.resume_queue)):
        add(
            routes,
            f"POST {one}/{verb}",
            handler,
            gives=QueueList,
            problems=(413, 422),
            tag="desk",
        )
    add(
        routes,
        "POST /jobs/retry",
        queues.retry_failed_jobs,
        gives=Retried,
        problems=(413,),
        tag="jobs",
    )


def _add_rules(routes: APIRouter, rules: RouteRoutes) -> None:
    changed: dict[str, Any] = {"tag": "desk"}
    add(routes, "GET /destinations", rules.list_destinations, gives=DestinationList, **changed)
    add(
        routes,
        "POST /destinations/{name}/check",
        rules.check_destination,
        gives=Reach,
        problems=(404, 413, 422),
        **changed,
    )
    add(routes, "GET /routing", rules.list_rules, gives=RuleList, **changed)
    tried: dict[str, Any] = {"gives": Trial, "problems": (404, 413, 422), **changed}
    add(routes, "POST /routing/try", rules.try_rules, **tried)
    add(routes, "POST /routing/try-file", rules.try_rules_on_file, **tried)


def reach(destination: Destination, calling_ae_title: str) -> Reach:
    """Ask a destination for an answer by the code that sends to it.

    Raises
    ------
    PeerUnavailable
        ``NO_SENDER`` where this process has none of that code.
    """
    if importlib.util.find_spec("workers") is None:
        raise PeerUnavailable("NO_SENDER", "this process cannot send; ask by `overread doctor`")
    ask = importlib.import_module(_REACH).reach
    begun = time.perf_counter()
    try:
        detail, answers = str(ask(destination, calling_ae_title=calling_ae_title)), True
    except OverreadError as error:
        detail, answers = error.message, False
    return Reach(destination.name, answers, detail, round(time.perf_counter() - begun, 3))


def _item(
    one: Destination,
    traffic: DestinationTraffic | None,
    classes: Sequence[SeenClass],
    refused: Collection[str],
) -> DestinationItem:
    return DestinationItem(
        name=one.name,
        kind=_kind(one),
        address=address_of(one),
        encrypted=one.tls.enabled if one.stow_url is None else one.stow_url.startswith("https"),
        objects=one.objects,
        rules=one.rules,
        only_reviewed=one.only_reviewed,
        classes=classes,
        instead=[str(change) for change in adapted(one.profile, refused).changes],
        traffic=traffic or _NO_TRAFFIC,
    )


def _kind(one: Destination) -> str:
    if one.mllp_host is not None:
        return "HL7"
    return "DICOM" if one.stow_url is None else "STOW-RS"


def address_of(one: Destination) -> str:
    """Return where a destination is, as people write it."""
    if one.mllp_host is not None:
        return f"{one.mllp_host}:{one.port}"
    return one.stow_url or f"{one.ae_title}@{one.host}:{one.port}"
