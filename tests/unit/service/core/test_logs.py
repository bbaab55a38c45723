"""What a log line may hold: one line, known keys, no patient."""

import io
import json
import logging

import structlog
from hypothesis import given
from hypothesis import strategies as st

from service.core.logs import MAX_VALUE_CHARACTERS, configure_logs, get_logger, plain


def lines_of(write: object) -> list[dict[str, object]]:
    stream = io.StringIO()
    configure_logs(role="test", form="json", level="info", stream=stream)
    write()  # type: ignore[operator]
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = []
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_careless_keyword_cannot_write_a_patient() -> None:
    def write() -> None:
        get_logger().info("stored", patient_name="Doe^Jane", sop_instance_uid="1.2.3")

    (line,) = lines_of(write)
    assert line["sop_instance_uid"] == "1.2.3"
    assert "Doe" not in json.dumps(line)


def test_an_exception_is_told_by_type_and_place_without_its_words() -> None:
    def write() -> None:
        try:
            raise ValueError("Doe^Jane")
        except ValueError:
            get_logger().exception("failed")

    (line,) = lines_of(write)
    assert str(line["exception"]).startswith("ValueError at test_logs.py:")
    assert "Doe" not in json.dumps(line)


def test_received_text_cannot_forge_a_line() -> None:
    def write() -> None:
        get_logger().info("refused", calling_ae_title='A\n{"event": "forged"}')

    (line,) = lines_of(write)
    assert line["event"] == "refused"


@given(st.text(max_size=2000))
def test_any_text_becomes_one_short_printable_line(text: str) -> None:
    shown = plain(text)
    assert len(shown) <= MAX_VALUE_CHARACTERS
    assert shown.isprintable()
