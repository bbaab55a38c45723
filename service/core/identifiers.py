"""Identifiers that a repeat reproduces: job ids, result UIDs, tracking UIDs; UID and AE grammar.

Everything that leaves this product under a UID has one derived from what it is about, so that
running a job twice, or delivering its result twice, can never make a second copy.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")

# The namespace of every UUID that this product derives; a constant of the product, never changed.
_NAMESPACE = uuid.UUID("6f0a4cf4-6a3e-5d0c-9f0e-1d8f6f7c2b11")

IMPLEMENTATION_CLASS_UID = "2.25." + str(uuid.uuid5(_NAMESPACE, "implementation").int)
IMPLEMENTATION_VERSION_NAME = "OVERREAD_0_1"
MANUFACTURER = "overread"


def is_uid(text: str) -> bool:
    """Return whether `text` is a UID in the grammar of PS3.5 section 9.

    >>> is_uid("1.2.840.10008.1.1"), is_uid("1.02.3"), is_uid("../../etc/passwd")
    (True, False, False)
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def is_ae_title(text: str) -> bool:
    """Return whether `text` is an AE title: 1 to 16 printable characters, not all spaces."""
    return _AE_TITLE.fullmatch(text) is not None and text.strip() != ""


def derive_uid(*parts: str) -> str:
    """Return the UID that belongs to these parts, the same in every run (PS3.5 B.2).

    >>> derive_uid("a", "b") == derive_uid("a", "b") != derive_uid("ab")
    True
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(parts)).int}"


def derive_job_id(
    *,
    series_instance_uid: str,
    instance_digests: Iterable[str],
    model_sha256: str,
    parameters: Mapping[str, object],
) -> str:
    """Return the id of the job that runs one model on exactly these instances.

    The same bytes, network and settings give the same id; a late or changed instance, another
    network or another setting gives a new one. 32 hexadecimal digits, fit for an RQ job id.
    """
    content = [
        series_instance_uid,
        sorted(instance_digests),
        model_sha256,
        json.dumps(parameters, sort_keys=True),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def result_uid(job_id: str, role: str) -> str:
    """Return the SOP Instance UID of a job's result in a role such as ``sr`` or ``seg``."""
    return derive_uid(job_id, role)


def result_series_uid(job_id: str, role: str) -> str:
    """Return the Series Instance UID of the series that holds a job's results of one role."""
    return derive_uid(job_id, role, "series")


def finding_id(job_id: str, rank: int) -> str:
    """Return the id of a job's finding by its rank, 0 being the most probable."""
    return str(uuid.uuid5(_NAMESPACE, json.dumps([job_id, "finding", rank])))


def tracking_uid(job_id: str, rank: int) -> str:
    """Return the Tracking Unique Identifier (0062,0021) of a job's finding by its rank."""
    return derive_uid(job_id, "tracking", str(rank))
