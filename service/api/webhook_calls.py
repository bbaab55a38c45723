"""Webhook calls over HTTP: who was told of what, and telling again."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from service.api.answers import answer
from service.api.context import Context
from service.api.routes import PREFIX, add
from service.api.schemas import LIMIT_DEFAULT, Cursor, Limit, NameFilter
from service.core.states import DeliveryState
from service.records import webhooks
from service.records.webhooks import Call, CallPage

CallId = Annotated[int, Path(ge=1, le=2**31 - 1)]


class CallRoutes:
    """Answers about calls of webhooks."""

    def __init__(self, context: Context) -> None:
        self._records = context.records
        self._clock = context.clock

    def list_webhook_calls(
        self,
        webhook: NameFilter = None,
        state: Annotated[
            list[DeliveryState] | None, Query(description="Any of these states")
        ] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Response:
        """List calls of webhooks, newest first.

        Which event each webhook was told of, when, and why it was not.
        """
        with self._records.reading() as connection:
            page = webhooks.page(
                connection, webhook=webhook, states=state or (), limit=limit, cursor=cursor or None
            )
            return answer(page)

    def get_webhook_call(self, call_id: CallId) -> Response:
        """Get one call of a webhook.

        Its state, attempts, the time of the next one and the last error.
        """
        with self._records.reading() as connection:
            return answer(webhooks.call(connection, call_id))

    def retry_webhook_call(self, call_id: CallId) -> Response:
        """Call a webhook again.

        The same content goes under the same id once more, with a day of attempts ahead.
        """
        with self._records.writing() as connection:
            webhooks.call_again(connection, call_id, at=self._clock.now())
        return self.get_webhook_call(call_id)


def router(context: Context) -> APIRouter:
    """Return the routes of webhook calls."""
    routes, handlers = APIRouter(prefix=PREFIX, tags=["webhooks"]), CallRoutes(context)
    one = "/webhook-calls/{call_id}"
    add(routes, "GET /webhook-calls", handlers.list_webhook_calls, gives=CallPage, problems=(422,))
    add(routes, f"GET {one}", handlers.get_webhook_call, gives=Call, problems=(404, 422))
    add(
        routes,
        f"POST {one}/retry",
        handlers.retry_webhook_call,
        gives=Call,
        problems=(404, 409, 422),
    )
    return routes
