"""Deliveries over HTTP: which result is where on its way, and sending it again."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.api.answers import answer
from service.api.context import Context
from service.api.routes import PREFIX, add
from service.api.schemas import (
    LIMIT_DEFAULT,
    Cursor,
    DeliveryId,
    Limit,
    NameFilter,
    StudyUidFilter,
)
from service.core.states import DeliveryState
from service.records import deliveries, listings
from service.records.listings import DeliveryItem, DeliveryPage, Filter


class DeliveryRoutes:
    """Answers about deliveries."""

    def __init__(self, context: Context) -> None:
        self._records = context.records
        self._clock = context.clock

    def list_deliveries(
        self,
        state: Annotated[
            list[DeliveryState] | None, Query(description="Any of these states")
        ] = None,
        destination: NameFilter = None,
        study_instance_uid: StudyUidFilter = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Response:
        """List deliveries, newest first.

        One item for each result and destination.
        """
        asked = Filter(study_instance_uid, tuple(state or ()), destination=destination)
        with self._records.reading() as connection:
            page = listings.delivery_page(connection, asked, limit=limit, cursor=cursor or None)
            return answer(page)

    def get_delivery(self, delivery_id: DeliveryId) -> Response:
        """Get one delivery.

        Its state, attempts, the time of the next one and the last error.
        """
        return self._delivery(delivery_id)

    def retry_delivery(self, delivery_id: DeliveryId) -> Response:
        """Send a delivered or parked result again.

        The same bytes go under the same UID once more, with a day of attempts ahead.
        """
        with self._records.writing() as connection:
            deliveries.send_again(connection, delivery_id, at=self._clock.now())
        return self._delivery(delivery_id)

    def _delivery(self, delivery_id: int) -> Response:
        with self._records.reading() as connection:
            return answer(listings.delivery(connection, delivery_id))


def router(context: Context) -> APIRouter:
    """Return the routes of deliveries."""
    routes, handlers = APIRouter(prefix=PREFIX, tags=["deliveries"]), DeliveryRoutes(context)
    one = "/deliveries/{delivery_id}"
    add(routes, "GET /deliveries", handlers.list_deliveries, gives=DeliveryPage, problems=(422,))
    add(routes, f"GET {one}", handlers.get_delivery, gives=DeliveryItem, problems=(404, 422))
    add(
        routes,
        f"POST {one}/retry",
        handlers.retry_delivery,
        gives=DeliveryItem,
        problems=(404, 409, 422),
    )
    return routes
