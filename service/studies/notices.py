"""Which webhooks are told of what happened, and what they are told.

Follows the events' rows from where it stopped; an event and the calls it makes are one
transaction, so that none is lost or told twice.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

from service.core.clock import Clock
from service.core.identifiers import derive_uid
from service.core.settings import Settings, WebhookSettings
from service.core.states import DeliveryState, JobState, StudyState
from service.records import events, notices, relays, webhooks
from service.records.database import Records, Transaction
from service.records.events import Event, EventKind
from service.records.heartbeats import process_name
from service.records.notices import Happening
from service.studies.routing import attributes, holds_all

RELAY: Final = "webhooks"
_LEASE: Final = timedelta(seconds=30)
_AT_ONCE: Final = 200
_ELSEWHERE_S: Final = 5.0  # while another scheduler does it

_EVENTS: Final[Mapping[tuple[EventKind, str], tuple[str, ...]]] = MappingProxyType(
    {
        (EventKind.JOB, JobState.COMPLETED): ("finding.urgent", "job.completed"),
        (EventKind.JOB, JobState.FAILED): ("job.failed",),
        (EventKind.STUDY, StudyState.ANALYSED): ("study.completed",),
        (EventKind.STUDY, StudyState.NOT_ANALYSED): ("study.completed",),
        (EventKind.STUDY, StudyState.FAILED): ("study.failed",),
        (EventKind.DELIVERY, DeliveryState.PARKED): ("delivery.parked",),
    }
)


class Notices:
    """Turns events into calls; one process at a time does."""

    def __init__(self, settings: Settings, records: Records, clock: Clock) -> None:
        self._webhooks = settings.webhooks
        self._records = records
        self._clock = clock
        self._holder = process_name("scheduler")
        self._seen_id: int | None = None
        self._again_at = 0.0

    def step(self) -> int:
        """Write the calls that new events make; return how many.

        Raises
        ------
        OutOfResources
            The database is away.
        """
        if not self._webhooks:
            self._forget()
            return 0
        with self._records.reading() as connection:
            newest_id = events.newest_id(connection)
        if newest_id == self._seen_id or time.monotonic() < self._again_at:
            return 0
        with self._records.writing() as connection:
            return self._pass_on(connection, newest_id)

    def pause(self) -> None:
        """Let some time go by: what was tried last must not be tried at once again."""
        self._again_at = time.monotonic() + _ELSEWHERE_S

    def _pass_on(self, connection: Transaction, newest_id: int) -> int:
        now = self._clock.now()
        place = relays.take(connection, RELAY, self._holder, at=now, lease=_LEASE, start=newest_id)
        if place is None:
            self._again_at = time.monotonic() + _ELSEWHERE_S
            return 0
        found = events.settled(events.after(connection, place, limit=_AT_ONCE), place, now=now)
        made = sum(self._tell(connection, event) for event in found)
        if found:
            place = found[-1].id
            relays.advance(connection, RELAY, self._holder, position=place, at=now)
        self._seen_id = place
        return made

    def _tell(self, connection: Transaction, event: Event) -> int:
        names = names_of(event)
        wanted = [hook for hook in self._webhooks if set(names) & set(hook.events)]
        if not wanted:
            return 0
        happening = notices.happening(connection, event)
        if happening is None:
            return 0
        made = 0
        for hook in wanted:
            for name in names:
                if name in hook.events and _is_for(hook, name, happening, connection):
                    made += webhooks.schedule(
                        connection,
                        webhook=hook.name,
                        event=name,
                        message_id=_message_id(hook.name, name, event),
                        study_instance_uid=event.study_instance_uid,
                        content=content(hook, name, event, happening),
                        at=self._clock.now(),
                    )
        return made

    def _forget(self) -> None:
        """Let webhooks that are set up later begin with what happens then."""
        if self._seen_id is None:
            with self._records.writing() as connection:
                relays.forget(connection, RELAY)
            self._seen_id = 0


def names_of(event: Event) -> Sequence[str]:
    """Return what an event is called towards webhooks; often nothing."""
    if event.kind is EventKind.REVIEW:
        return ("finding.reviewed",)
    return _EVENTS.get((event.kind, event.state), ())


def content(
    hook: WebhookSettings, name: str, event: Event, happening: Happening
) -> Mapping[str, Any]:
    """Return what a webhook is told; who the patient is only where that is switched on."""
    told: dict[str, Any] = {
        "study_instance_uid": event.study_instance_uid,
        "state": event.state,
        "reason": event.reason,
        "urgency": happening.urgency,
        "urgency_reason": happening.urgency_reason,
        **dict(_parts(hook, name, happening)),
    }
    if hook.include_identity:
        told["patient"] = dict(happening.identity)
    return {"type": name, "timestamp": event.at.isoformat(), "data": told}


def _parts(hook: WebhookSettings, name: str, happening: Happening) -> Iterator[tuple[str, object]]:
    if happening.job is not None:
        yield "job", dict(happening.job)
    if happening.delivery is not None:
        yield "delivery", dict(happening.delivery)
    if name == "finding.urgent":
        urgent = [item for item in happening.findings if item["urgency"] >= hook.min_urgency]
        yield "findings", [dict(item) for item in urgent]
    elif name == "finding.reviewed":
        yield "findings", [dict(item) for item in happening.findings]


def _is_for(
    hook: WebhookSettings, name: str, happening: Happening, connection: Transaction
) -> bool:
    """Return whether a webhook's rules hold for what happened."""
    if hook.tasks and happening.task is not None and happening.task not in hook.tasks:
        return False
    if name == "finding.urgent" and not any(
        item["urgency"] >= hook.min_urgency for item in happening.findings
    ):
        return False
    if not hook.rules:
        return True
    header = notices.header_bytes(connection, happening.study_id)
    return holds_all(hook.rules, attributes(header, happening.source_ae_title))


def _message_id(hook: str, name: str, event: Event) -> str:
    return "msg_" + derive_uid("webhook", hook, name, str(event.id)).rpartition(".")[2]
