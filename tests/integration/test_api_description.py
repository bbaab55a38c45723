"""The API does what its OpenAPI says, whatever is asked: tried by schemathesis."""

import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.api.app import create_app
from service.core.settings import Destination
from service.records.database import Records
from service.records.migrations import migrate
from tests.builders import rows
from tests.builders.http import SetClock, site_settings

EXAMPLES = 6
# Streams without end, what reaches for other machines, and what is 503 where there is no Redis.
LEFT_OUT = frozenset({"/api/v1/events", "/api/v1/destinations/{name}/check", "/readyz"})
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@schemathesis.serializer("application/dicom")
def _dicom(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("description")
    records = Records(f"sqlite:///{folder / 'o.db'}")
    migrate(records)
    with records.writing() as connection:
        rows.add_analysed_study(connection)
    away = Destination(name="PACS", ae_title="PACS", host="127.0.0.1", port=1)
    app = create_app(site_settings(folder, destinations=(away,)), records, clock=SetClock())
    yield schemathesis.openapi.from_asgi("/api/v1/openapi.json", _on_loopback(app))
    records.close()


def _on_loopback(app: Any) -> Any:
    """Return the application as reached by the name that it answers to."""

    async def reached(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            others = [pair for pair in scope["headers"] if pair[0] != b"host"]
            scope = {**scope, "headers": [*others, (b"host", b"127.0.0.1:8080")]}
        await app(scope, receive, send)

    return reached


def test_every_operation_answers_as_it_says(schema: Any) -> None:
    faults: dict[str, str] = {}
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in LEFT_OUT:
            continue
        tried += 1
        try:
            _try(operation)
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  every fault is wanted
            faults[operation.label] = str(error)[:900]
    assert not faults, "\n\n".join(f"{label}: {fault}" for label, fault in faults.items())
    assert tried > 60


def _try(operation: Any) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=timedelta(seconds=20),
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def tried(case: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.call_and_validate(checks=CHECKS)

    tried()
