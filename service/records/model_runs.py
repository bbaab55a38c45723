"""Which models have run here."""

from sqlalchemy import Connection, select

from service.core.errors import NotFound
from service.records.listings import ModelReference
from service.records.tables import jobs


def by_digest(connection: Connection, sha256: str) -> ModelReference:
    """Return the model with this digest that has run on any study.

    Raises
    ------
    NotFound
        ``MODEL_UNKNOWN``.
    """
    query = select(jobs.c.model_name, jobs.c.model_version).where(jobs.c.model_sha256 == sha256)
    row = connection.execute(query.limit(1)).first()
    if row is None:
        raise NotFound("MODEL_UNKNOWN", "no such model has run")
    return ModelReference(row.model_name, row.model_version, sha256)
