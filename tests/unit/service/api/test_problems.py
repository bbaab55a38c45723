"""Which error becomes which answer, and what an answer never says."""

import json

import pytest

from service.api.problems import of_error
from service.core.errors import (
    ContractViolation,
    InvalidModel,
    InvalidRequest,
    NotFound,
    OutOfResources,
    OverreadError,
    PeerUnavailable,
    RefusedInstance,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("STUDY_UNKNOWN", "no study 1.2"), 404),
        (InvalidRequest("CURSOR", "cursor: not ours"), 422),
        (InvalidRequest("JOB_STATE", "job is COMPLETED"), 409),
        (InvalidRequest("UNSUPPORTED_MEDIA_TYPE", "allowed: application/dicom"), 415),
        (InvalidRequest("MALFORMED_MULTIPART", "the body ends early"), 400),
        (RefusedInstance("NOT_A_DICOM_FILE", "no preamble"), 409),
    ],
)
def test_errors_meant_for_the_asker_keep_reason_and_message(
    error: OverreadError, status: int
) -> None:
    answer = of_error(error, path="/x")
    body = json.loads(answer.body)
    assert (answer.status_code, body["status"]) == (status, status)
    assert (body["reason"], body["detail"]) == (error.reason, error.message)
    assert answer.media_type == "application/problem+json"


@pytest.mark.parametrize(
    "error", [OutOfResources("DATABASE_AWAY", "secret"), PeerUnavailable("REDIS_AWAY", "secret")]
)
def test_what_is_away_asks_to_come_back_and_tells_no_more(error: OverreadError) -> None:
    answer = of_error(error, path="/x")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert b"secret" not in answer.body


@pytest.mark.parametrize(
    "error", [ContractViolation("SHAPE", "secret"), InvalidModel("DIGEST", "secret")]
)
def test_faults_of_our_own_are_500_without_their_message(error: OverreadError) -> None:
    answer = of_error(error, path="/x")
    assert answer.status_code == 500
    assert b"secret" not in answer.body
