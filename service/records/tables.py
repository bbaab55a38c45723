"""Every table, in one file; how they belong together is told by the foreign keys.

``studies`` hold ``series`` hold ``instances`` (each version of an instance is a row, the newest is
``current``). ``assessments`` say per study and model which series it suits, or why none.
``jobs`` are model runs with their ``findings`` and ``results``; a ``delivery`` is a result on its
way to a destination. ``outbox`` rows are doorbells that have still to be rung in Redis.
``controls`` are what an administrator switched while the product runs; they outlive a restart.
"""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC; SQLite keeps it without the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times; convert to UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without its zone")
        in_utc = value.astimezone(UTC)
        return in_utc.replace(tzinfo=None) if dialect.name == "sqlite" else in_utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Json: Final[Any] = JSON().with_variant(JSONB(), "postgresql")
_CURRENT: Final[Any] = {"sqlite_where": text("current"), "postgresql_where": text("current")}


def _parent(name: str, *, null: bool = False) -> Column[int]:
    return Column(
        f"{name}_id",
        Integer,
        ForeignKey(f"{name if name == 'series' else 'studies'}.id", ondelete="CASCADE"),
        nullable=null,
        index=True,
    )


studies = Table(
    "studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_instance_uid", String(64), nullable=False, unique=True),
    Column("patient_id", Text, nullable=False, server_default="", index=True),
    Column("issuer_of_patient_id", Text, nullable=False, server_default=""),
    Column("patient_name", Text, nullable=False, server_default=""),
    Column("patient_birth_date", String(8), nullable=False, server_default=""),
    Column("patient_sex", String(16), nullable=False, server_default=""),
    Column("accession_number", Text, nullable=False, server_default="", index=True),
    Column("study_id_text", Text, nullable=False, server_default=""),
    Column("study_date", String(8), nullable=False, server_default="", index=True),
    Column("study_time", String(16), nullable=False, server_default=""),
    Column("study_description", Text, nullable=False, server_default=""),
    Column("referring_physician_name", Text, nullable=False, server_default=""),
    Column("modalities", Text, nullable=False, server_default=""),  # of its images: "CT,DX"
    Column("source_ae_title", String(64), nullable=False, server_default=""),
    Column("received_at", UtcDateTime, nullable=False, index=True),
    Column("last_received_at", UtcDateTime, nullable=False),
    Column("revision", Integer, nullable=False),  # of its content; a late instance opens the next
    Column("completed_revision", Integer, nullable=False, server_default="0"),
    Column("completed_at", UtcDateTime),
    Column("state", String(16), nullable=False, index=True),
    Column("priority", String(8), nullable=False, server_default="ROUTINE"),
    Column("urgency", Float, nullable=False, server_default="0"),
    Column("urgency_reason", Text, nullable=False, server_default=""),
    Column("series_count", Integer, nullable=False, server_default="0"),
    Column("instances_count", Integer, nullable=False, server_default="0"),
    # Every order of the worklist is an index, so that a page costs the same however long it grows.
    Index("ix_studies_urgency_received_at_id", "urgency", "received_at", "id"),
    Index("ix_studies_state_urgency_received_at_id", "state", "urgency", "received_at", "id"),
    Index("ix_studies_study_date_id", "study_date", "id"),
    Index("ix_studies_patient_name_id", "patient_name", "id"),
)

series = Table(
    "series",
    metadata,
    Column("id", Integer, primary_key=True),
    _parent("study"),
    Column("series_instance_uid", String(64), nullable=False),
    Column("modality", String(16), nullable=False, server_default=""),
    Column("series_number", Integer),
    Column("series_description", Text, nullable=False, server_default=""),
    Column("body_part_examined", Text, nullable=False, server_default=""),
    Column("received_at", UtcDateTime, nullable=False),
    Column("last_received_at", UtcDateTime, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("completed_revision", Integer, nullable=False, server_default="0"),
    Column("completed_at", UtcDateTime),
    Column("instances_count", Integer, nullable=False, server_default="0"),
    Column("is_result", Boolean, nullable=False, server_default=text("false")),
    # Results that nobody should read by themselves: superseded, of a shadow run, in another form.
    Column("hidden", Boolean, nullable=False, server_default=text("false")),
    UniqueConstraint("study_id", "series_instance_uid"),
    Index("ix_series_series_instance_uid", "series_instance_uid"),
)

instances = Table(
    "instances",
    metadata,
    Column("id", Integer, primary_key=True),
    _parent("study"),
    _parent("series"),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("current", Boolean, nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("instance_number", Integer),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("path", Text, nullable=False),  # relative to the archive's root
    Column("header", Json, nullable=False),  # service.core.headers.InstanceHeader
    Column("header_bytes", LargeBinary, nullable=False),  # Part 10 bytes up to Pixel Data
    Column("received_at", UtcDateTime, nullable=False),
    Column("calling_ae_title", String(64), nullable=False, server_default=""),
    Column("is_result", Boolean, nullable=False, server_default=text("false")),
    UniqueConstraint("sop_instance_uid", "version"),
    Index("uq_instances_current", "sop_instance_uid", unique=True, **_CURRENT),
)

assessments = Table(
    "assessments",
    metadata,
    Column("id", Integer, primary_key=True),
    _parent("study"),
    _parent("series", null=True),  # None: what holds for the study as a whole
    Column("model_name", String(64), nullable=False),
    Column("model_version", String(32), nullable=False),
    Column("task", String(64), nullable=False),
    Column("eligible", Boolean, nullable=False),
    Column("chosen", Boolean, nullable=False),
    Column("score", Float, nullable=False, server_default="0"),
    Column("reason", String(64), nullable=False, server_default=""),
    Column("message", Text, nullable=False, server_default=""),
    Column("assessed_at", UtcDateTime, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    _parent("study"),
    _parent("series"),
    Column("task", String(64), nullable=False),
    Column("model_name", String(64), nullable=False),
    Column("model_version", String(32), nullable=False),
    Column("model_sha256", String(64), nullable=False),
    Column("parameters", Json, nullable=False),  # operating point and other settings of this run
    Column("inputs", Json, nullable=False),  # [{"instance_id", "sha256"}]
    Column("current", Boolean, nullable=False),  # False once a newer run replaced it
    Column("shadow", Boolean, nullable=False, server_default=text("false")),
    # The finished run whose results this job makes anew, without the network; never `current`.
    Column("report_of", String(32), index=True),
    Column("destinations", Json, nullable=False),  # names, or null for every matching one
    Column("state", String(16), nullable=False),
    Column("priority", String(8), nullable=False),
    Column("reason", String(64), nullable=False, server_default=""),
    Column("message", Text, nullable=False, server_default=""),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("lease_until", UtcDateTime),
    Column("due_at", UtcDateTime, nullable=False),
    Column("worker", Text, nullable=False, server_default=""),
    Column("device", String(32), nullable=False, server_default=""),
    Column("timings_s", Json, nullable=False),  # {"volume": 1.2, "network": 30.1, ...}
    Column("scores", Json, nullable=False),  # what guards measured
    Column("comparison", Json),  # with which earlier run, or why with none
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Index("ix_jobs_state_due_at", "state", "due_at"),
    Index("ix_jobs_created_at_id", "created_at", "id"),
)

findings = Table(
    "findings",
    metadata,
    Column("id", String(36), primary_key=True),
    Column(
        "job_id", String(32), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    _parent("study"),
    Column("rank", Integer, nullable=False),
    Column("class_name", String(64), nullable=False),
    Column("probability", Float, nullable=False),
    Column("qualifier", String(16), nullable=False),
    Column("content", Json, nullable=False),  # service.core.findings.Finding
)

results = Table(
    "results",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "job_id", String(32), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    _parent("study"),
    Column("role", String(16), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False, unique=True),
    Column("series_instance_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(64), nullable=False, server_default=""),
    Column("message", Text, nullable=False, server_default=""),
    Column("created_at", UtcDateTime, nullable=False),
    Column("form", String(32), nullable=False, server_default=""),  # service.core.profiles
    Column("reviewed", Boolean, nullable=False, server_default=text("false")),
    Column("superseded_at", UtcDateTime),
    Column("superseded_by", String(32)),  # jobs.id, null where nothing took its place
)

analyses = Table(
    "analyses",
    metadata,
    Column("job_id", String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("frames", Json, nullable=False),  # [[SOP Instance UID, frame number]] of the masks
    Column("evidence", LargeBinary, nullable=False),  # workers.evidence: masks and maps
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "result_id",
        Integer,
        ForeignKey("results.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    _parent("study"),
    Column("destination", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("priority", String(8), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("lease_until", UtcDateTime),
    Column("due_at", UtcDateTime, nullable=False),
    Column("give_up_at", UtcDateTime, nullable=False),
    Column("reason", String(64), nullable=False, server_default=""),
    Column("message", Text, nullable=False, server_default=""),
    Column("created_at", UtcDateTime, nullable=False),
    Column("delivered_at", UtcDateTime),
    # Storage commitment: service.core.states.CommitmentState, empty where nobody is asked for it.
    Column("commitment", String(16), nullable=False, server_default=""),
    Column("commitment_uid", String(64), index=True),  # of the transaction under way
    Column("commitment_due_at", UtcDateTime),
    Column("commitment_attempts", Integer, nullable=False, server_default="0"),
    Column("committed_at", UtcDateTime),
    UniqueConstraint("result_id", "destination"),
    Index("ix_deliveries_state_due_at", "state", "due_at"),
    Index("ix_deliveries_commitment_commitment_due_at", "commitment", "commitment_due_at"),
)

destination_classes = Table(
    "destination_classes",
    metadata,
    Column("destination", String(32), primary_key=True),
    Column("sop_class_uid", String(64), primary_key=True),
    Column("accepted", Boolean, nullable=False),
    Column("reason", String(64), nullable=False, server_default=""),
    Column("seen_at", UtcDateTime, nullable=False),
)

commitment_reports = Table(
    "commitment_reports",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("transaction_uid", String(64), nullable=False),
    Column("calling_ae_title", String(64), nullable=False),
    Column("instances", Json, nullable=False),  # [[SOP Class UID, SOP Instance UID], ...]
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_at", UtcDateTime, nullable=False, index=True),
    Column("give_up_at", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

# One row a study whose earlier studies are sought, analysed or waited for.
comparisons = Table(
    "comparisons",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(64), nullable=False, server_default=""),
    Column("message", Text, nullable=False, server_default=""),
    Column("job_ids", Json, nullable=False),  # the runs that are to be compared
    Column("prior_study_uids", Json, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("lease_until", UtcDateTime),
    Column("due_at", UtcDateTime, nullable=False),
    Column("give_up_at", UtcDateTime, nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Index("ix_comparisons_study_id", "study_id", unique=True),
    Index("ix_comparisons_state_due_at", "state", "due_at"),
)

# Studies that came because we asked for them; they keep their row when the study is deleted, so
# that the day's limit counts them.
fetched_studies = Table(
    "fetched_studies",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("for_study_instance_uid", String(64), nullable=False),
    Column("asked_at", UtcDateTime, nullable=False, index=True),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("topic", String(16), nullable=False),  # service.records.queues.Topic
    Column("subject_id", String(32), nullable=False),  # jobs.id or deliveries.id
    Column("created_at", UtcDateTime, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("subject_id", String(64), nullable=False, server_default=""),
    Column("state", String(32), nullable=False, server_default=""),
    Column("reason", String(64), nullable=False, server_default=""),
    sqlite_autoincrement=True,  # ids are the cursor of the event stream and must never return
)

reviews = Table(
    "reviews",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "finding_id",
        String(36),
        ForeignKey("findings.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("verdict", String(16), nullable=False),
    Column("comment", Text, nullable=False, server_default=""),
    Column("reviewer", Text, nullable=False, server_default=""),
    Column("changes", Json, nullable=False),
    Column("reviewed_at", UtcDateTime, nullable=False),
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("process", String(128), primary_key=True),  # role, host and process id
    Column("role", String(16), nullable=False),
    Column("device", String(32), nullable=False, server_default=""),
    Column("detail", Json, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
)

labels = Table(
    "labels",
    metadata,
    Column("id", Integer, primary_key=True),
    _parent("study"),
    Column("label", String(64), nullable=False, index=True),
    Column("added_by", Text, nullable=False, server_default=""),
    Column("added_at", UtcDateTime, nullable=False),
    UniqueConstraint("study_id", "label"),
)

readings = Table(
    "readings",
    metadata,
    Column(
        "study_id",
        Integer,
        ForeignKey("studies.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("state", String(16), nullable=False),  # service.core.states.ReadingState
    Column("reader", Text, nullable=False, server_default=""),
    Column("changed_at", UtcDateTime, nullable=False),
)

controls = Table(
    "controls",
    metadata,
    Column("name", String(96), primary_key=True),  # "queue", "model:lung_nodule_detection"
    Column("value", Json, nullable=False),
    Column("changed_by", Text, nullable=False, server_default=""),
    Column("changed_at", UtcDateTime, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),  # the part of the key that may be shown
    Column("name", Text, nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", Text, nullable=False, server_default=""),
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

sessions = Table(
    "sessions",
    metadata,
    Column("sha256", String(64), primary_key=True),  # of the cookie
    Column("name", Text, nullable=False),
    Column("role", String(16), nullable=False),
    Column("means", String(16), nullable=False),  # service.core.access.Means
    Column("source", String(128), nullable=False, server_default="", index=True),
    Column("study_instance_uid", String(64)),  # the only study to be seen, null for all
    Column("opened_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("secret", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

audit_events = Table(
    "audit_events",  # append-only: triggers refuse everything else
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("kind", String(16), nullable=False),  # service.records.audit.AuditKind
    Column("operation", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("actor", Text, nullable=False),
    Column("means", String(16), nullable=False),
    Column("role", String(16), nullable=False),
    Column("address", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("subject_id", String(128), nullable=False),
    Column("detail", Text, nullable=False),
    Column("process", String(128), nullable=False),
    Column("sha256", String(64), nullable=False),  # over the entry and the one before it
    Index("ix_audit_events_actor_id", "actor", "id"),
    sqlite_autoincrement=True,
)

relays = Table(
    "relays",  # how far a list has been passed on, and by whom just now
    metadata,
    Column("name", String(32), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("holder", String(128), nullable=False, server_default=""),
    Column("lease_until", UtcDateTime),
    Column("reason", String(64), nullable=False, server_default=""),
    Column("changed_at", UtcDateTime, nullable=False),
)

webhook_calls = Table(
    "webhook_calls",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("message_id", String(64), nullable=False, unique=True),  # the same in every attempt
    Column("webhook", String(32), nullable=False),
    Column("event", String(32), nullable=False),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("content", Json, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("lease_until", UtcDateTime),
    Column("due_at", UtcDateTime, nullable=False),
    Column("give_up_at", UtcDateTime, nullable=False),
    Column("reason", String(64), nullable=False, server_default=""),
    Column("message", Text, nullable=False, server_default=""),
    Column("created_at", UtcDateTime, nullable=False),
    Column("delivered_at", UtcDateTime),
    Index("ix_webhook_calls_state_due_at", "state", "due_at"),
)
