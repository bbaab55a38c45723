"""Structured logs: one line per event, identifiers bound once, never a patient's identity.

Every log call names an event and passes keywords. Keywords outside the allow-list are dropped, so
that a careless call cannot write a patient's name; control characters are escaped and long values
cut, so that received text can neither forge lines nor fill the disk.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog

MAX_VALUE_CHARACTERS: Final = 256

ALLOWED_KEYS: Final = frozenset(
    """
    event level timestamp logger role error reason message detail attempt attempts count status
    job_id delivery_id destination model version sha256 task device provider state queue topic
    study_instance_uid series_instance_uid sop_instance_uid sop_class_uid transfer_syntax_uid
    calling_ae_title called_ae_title address host port path url method status_code duration_s
    size_bytes free_bytes timeout_s pid exit_code signal setting revision fence worker instances
    series studies findings kind exception seconds limit
    """.split()
)


def configure_logs(*, role: str, form: str, level: str, stream: TextIO | None = None) -> None:
    """Set up logging for this process; `form` is ``console`` or ``json``."""
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=False)
        if form == "console"
        else structlog.processors.JSONRenderer()
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _exception_type_only,
        _allowed_only,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # These libraries quote received values, which may hold a patient's identity.
    for name in ("pydicom", "pynetdicom", "rq", "httpx", "httpcore", "uvicorn.access", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(role=role)


def get_logger() -> structlog.stdlib.BoundLogger:
    """Return the logger; call it as ``log.info("event_name", keyword=value)``."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger("overread")
    return logger


def plain(value: object) -> str:
    r"""Return a value as printable text of bounded length.

    >>> plain("one\ntwo")
    'one\\ntwo'
    """
    text = str(value)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= MAX_VALUE_CHARACTERS else shown[: MAX_VALUE_CHARACTERS - 1] + "…"


def _allowed_only(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key in list(event):
        if key.startswith("_"):  # structlog's own bookkeeping
            continue
        if key not in ALLOWED_KEYS:
            del event[key]
        elif isinstance(event[key], str):
            event[key] = plain(event[key])
    return event


def _exception_type_only(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace a traceback by the exception's type and place: messages may quote received data."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        place = ""
        if traceback is not None:
            code = traceback.tb_frame.f_code
            place = f" at {code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno}"
        event["exception"] = f"{type(error).__name__}{place}"
    return event
