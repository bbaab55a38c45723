"""What changes, as it changes: server-sent events out of the events' rows."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final

import anyio.to_thread
from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from service.api.answers import to_json
from service.api.context import Context
from service.api.problems import documented
from service.api.routes import PREFIX
from service.core.errors import OverreadError
from service.records import events
from service.records.events import Event, settled

_POLL_S: Final = 0.5
_KEEP_ALIVE_S: Final = 15.0
_ID_LIMIT: Final = 2**31 - 1
_RETRY_MS: Final = 2000


def router(context: Context) -> APIRouter:
    """Return the route of the event stream."""
    routes = APIRouter(prefix=PREFIX, tags=["events"])
    feed = EventFeed(context)

    @routes.get(
        "/events",
        operation_id="streamEvents",
        summary="State changes as server-sent events",
        response_class=StreamingResponse,
        responses={
            200: {
                "description": "One event for each change of a study, series, job, result, "
                "delivery or review; `id` is the place to go on from (`Last-Event-ID`).",
                "content": {
                    "text/event-stream": {
                        "schema": {"type": "string"},
                        "example": 'id: 17\nevent: job\ndata: {"id":17,"state":"COMPLETED"}\n\n',
                    }
                },
            },
            **documented(422),
        },
    )
    async def stream(
        after: Annotated[
            int | None,
            Query(ge=0, le=_ID_LIMIT, description="Begin behind this event; without it, now"),
        ] = None,
        last_event_id: Annotated[
            int | None, Header(ge=0, le=_ID_LIMIT, description="Set by browsers that come back")
        ] = None,
    ) -> StreamingResponse:
        """Send each change once and in order, and a comment now and then to keep the line open."""
        start = last_event_id if last_event_id is not None else after
        return StreamingResponse(
            feed.follow(start),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store"},
        )

    return routes


class EventFeed:
    """Follows the events' rows for every client; the database is asked once, however many."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._newest_id = 0
        self._asked_at = float("-inf")

    async def follow(self, after_id: int | None) -> AsyncIterator[bytes]:
        """Yield the stream's bytes from behind an event on, until the process is to stop."""
        yield f"retry: {_RETRY_MS}\n\n".encode()
        place = after_id
        spoken_at = time.monotonic()
        while not self._context.stop.is_set():
            try:
                newest_id = await self._newest()
                place = newest_id if place is None else place
                ready = await self._ready(place) if newest_id > place else []
            except OverreadError:
                ready = []  # the database is away; the line stays open until it is back
            for event in ready:
                yield encoded(event)
                place = event.id
            if ready:
                spoken_at = time.monotonic()
            elif time.monotonic() - spoken_at > _KEEP_ALIVE_S:
                yield b": still here\n\n"
                spoken_at = time.monotonic()
            await asyncio.sleep(_POLL_S)

    async def _newest(self) -> int:
        if time.monotonic() - self._asked_at >= _POLL_S:
            self._asked_at = time.monotonic()
            self._newest_id = await anyio.to_thread.run_sync(self._read_newest)
        return self._newest_id

    async def _ready(self, place: int) -> Sequence[Event]:
        found = await anyio.to_thread.run_sync(self._read_after, place)
        return settled(found, place, now=self._context.clock.now())

    def _read_newest(self) -> int:
        with self._context.records.reading() as connection:
            return events.newest_id(connection)

    def _read_after(self, place: int) -> Sequence[Event]:
        with self._context.records.reading() as connection:
            return events.after(connection, place)


def encoded(event: Event) -> bytes:
    """Return an event as the stream writes it."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, event.kind.encode(), to_json(event))
