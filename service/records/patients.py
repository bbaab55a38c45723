"""Whose studies these are, for the few who must say so."""

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, select

from service.records.tables import studies


def ids_of(connection: Connection, study_instance_uids: Collection[str]) -> Mapping[str, str]:
    """Return the Patient ID of each of these studies that is here."""
    query = select(studies.c.study_instance_uid, studies.c.patient_id).where(
        studies.c.study_instance_uid.in_(study_instance_uids)
    )
    return {row.study_instance_uid: row.patient_id for row in connection.execute(query)}
