"""expand life of results: forms, reports made anew, what is superseded, what destinations take"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("report_of", sa.String(32)))
    op.create_index("ix_jobs_report_of", "jobs", ["report_of"])
    op.add_column("results", sa.Column("form", sa.String(32), nullable=False, server_default=""))
    op.add_column(
        "results",
        sa.Column("reviewed", sa.Boolean(), nullable=False, server_default=sa.text("false")),
    )
    op.add_column("results", sa.Column("superseded_at", _TIME))
    op.add_column("results", sa.Column("superseded_by", sa.String(32)))
    op.add_column(
        "series",
        sa.Column("hidden", sa.Boolean(), nullable=False, server_default=sa.text("false")),
    )
    op.create_table(
        "analyses",
        sa.Column(
            "job_id",
            sa.String(32),
            sa.ForeignKey("jobs.id", ondelete="CASCADE", name="fk_analyses_job_id_jobs"),
            primary_key=True,
        ),
        sa.Column("frames", _JSON, nullable=False),
        sa.Column("evidence", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "destination_classes",
        sa.Column("destination", sa.String(32), primary_key=True),
        sa.Column("sop_class_uid", sa.String(64), primary_key=True),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False, server_default=""),
        sa.Column("seen_at", _TIME, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("destination_classes")
    op.drop_table("analyses")
    op.drop_column("series", "hidden")
    for name in ("superseded_by", "superseded_at", "reviewed", "form"):
        op.drop_column("results", name)
    op.drop_index("ix_jobs_report_of", table_name="jobs")
    op.drop_column("jobs", "report_of")
