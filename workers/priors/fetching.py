"""Which earlier studies are fetched from a PACS, within the site's limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from service.core.clock import Clock
from service.core.errors import PeerRefused
from service.core.priors import StudySummary, choose_priors
from service.core.settings import Destination, Settings
from service.records import comparisons, priors
from service.records.comparisons import Comparison
from service.records.database import Records
from workers.priors.dicomweb import DicomwebSource
from workers.priors.dimse import DimseSource
from workers.priors.source import PriorSource, matching

# A CT slice as scanners store it, header included: what a series weighs before it has come.
_BYTES_PER_INSTANCE: Final = 560_000
_DAY: Final = timedelta(hours=24)


@dataclass(frozen=True)
class Fetched:
    """The studies that were asked for, and in words why there are no more."""

    study_instance_uids: tuple[str, ...]
    reason: str = ""
    message: str = ""


def source_of(settings: Settings) -> PriorSource | None:
    """Return the PACS that is asked for earlier studies, if one is configured."""
    peer = settings.priors.source
    if peer is None:
        return None
    if peer.dicomweb_url is None:
        return DimseSource(peer, settings.priors, settings.dicom.ae_title)
    host = settings.dicom.host
    listener = Destination(
        name="own-listener",
        ae_title=settings.dicom.ae_title,
        host="127.0.0.1" if host in ("0.0.0.0", "") else host,  # noqa: S104  compared, not bound
        port=settings.dicom.port,
        tls=settings.dicom.tls,
    )
    return DicomwebSource(peer, settings.priors, listener, settings.dicom.ae_title)


def fetch_priors(
    source: PriorSource, held: Comparison, *, settings: Settings, records: Records, clock: Clock
) -> Fetched:
    """Ask a PACS for the earlier studies of a study's patient, and have those come that are chosen.

    Only studies that are worth comparing with, that are not here, and of them only the series of
    the modality that was analysed. Every study asked for is written down before it comes, so that
    it is known for what it is on arrival.

    Raises
    ------
    PeerUnavailable, PeerRefused
        With the reason why the PACS gave nothing.
    """
    rules = settings.priors
    with records.reading() as connection:
        current = priors.summary_of(connection, held.study_id)
        modalities = priors.modalities_of_runs(connection, held.job_ids)
        known = priors.studies_of_patient(connection, current.patient.patient_id)
        spent = comparisons.count_fetched(connection, since=clock.now() - _DAY)
    here = {one.summary.study_instance_uid for one in known}
    found = [
        one
        for one in source.studies_of(current.patient)
        if one.study_instance_uid not in here and one.study_instance_uid
    ]
    chosen = choose_priors(
        current,
        [*(one.summary for one in known), *(_with_modality(one, modalities) for one in found)],
        modalities=modalities,
        max_studies=rules.max_studies,
        max_age_days=rules.max_age_days,
    )
    wanted = [one for one in chosen if one.study_instance_uid not in here]
    allowed = wanted[: max(0, rules.max_per_day - spent)]
    for one in allowed:
        with records.writing() as connection:
            comparisons.note_fetched(
                connection,
                one.study_instance_uid,
                purpose=held.study_instance_uid,
                at=clock.now(),
            )
    refused = _fetch_studies(source, allowed, modalities, rules.max_bytes)
    # Those that were here before are named too: one may have come in an attempt that broke off.
    came = [
        one.study_instance_uid
        for one in chosen
        if one not in wanted[len(allowed) :] and one.study_instance_uid not in refused
    ]
    if len(allowed) < len(wanted):
        return Fetched(tuple(came), "DAY_LIMIT", f"{rules.max_per_day} studies in 24 hours")
    for error in refused.values():
        return Fetched(tuple(came), error.reason, error.message)
    return Fetched(tuple(came), "" if came else "NO_PRIOR")


def _fetch_studies(
    source: PriorSource,
    studies: Sequence[StudySummary],
    modalities: frozenset[str],
    max_bytes: int,
) -> dict[str, PeerRefused]:
    """Fetch studies one by one; return those that cannot be had, and why."""
    refused = {}
    for one in studies:
        try:
            _fetch_study(source, one, modalities, max_bytes)
        except PeerRefused as error:
            refused[one.study_instance_uid] = error
    return refused


def _with_modality(found: StudySummary, modalities: frozenset[str]) -> StudySummary:
    """Take a study whose modalities the PACS does not tell as one that may have them."""
    if found.modalities:
        return found
    return StudySummary(**{**vars(found), "modalities": tuple(modalities)})


def _fetch_study(
    source: PriorSource, study: StudySummary, modalities: frozenset[str], max_bytes: int
) -> None:
    """Fetch a study's series of these modalities, the largest first, while they fit."""
    left, fetched = max_bytes, 0
    for one in matching(source.series_of(study.study_instance_uid), modalities):
        weight = (one.instances_count or 0) * _BYTES_PER_INSTANCE
        if weight <= left:
            source.fetch(one, max_bytes=left)
            left, fetched = left - weight, fetched + 1
    if not fetched:
        raise PeerRefused(
            "NOTHING_SUITABLE",
            f"the earlier study has no series of {'/'.join(sorted(modalities))}"
            f" within {max_bytes} bytes",
        )
