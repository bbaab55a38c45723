"""expand priors: what each run was compared with, what is fetched for it, and from where"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("comparison", _JSON))
    op.create_table(
        "comparisons",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "study_id",
            sa.Integer(),
            sa.ForeignKey("studies.id", ondelete="CASCADE", name="fk_comparisons_study_id_studies"),
            nullable=False,
        ),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False, server_default=""),
        sa.Column("message", sa.Text(), nullable=False, server_default=""),
        sa.Column("job_ids", _JSON, nullable=False),
        sa.Column("prior_study_uids", _JSON, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("fence", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("lease_until", _TIME),
        sa.Column("due_at", _TIME, nullable=False),
        sa.Column("give_up_at", _TIME, nullable=False),
        sa.Column("opened_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME),
    )
    op.create_index("ix_comparisons_study_id", "comparisons", ["study_id"], unique=True)
    op.create_index("ix_comparisons_state_due_at", "comparisons", ["state", "due_at"])
    op.create_table(
        "fetched_studies",
        sa.Column("study_instance_uid", sa.String(64), primary_key=True),
        sa.Column("for_study_instance_uid", sa.String(64), nullable=False),
        sa.Column("asked_at", _TIME, nullable=False),
    )
    op.create_index("ix_fetched_studies_asked_at", "fetched_studies", ["asked_at"])


def downgrade() -> None:
    op.drop_index("ix_fetched_studies_asked_at", table_name="fetched_studies")
    op.drop_table("fetched_studies")
    op.drop_index("ix_comparisons_state_due_at", table_name="comparisons")
    op.drop_index("ix_comparisons_study_id", table_name="comparisons")
    op.drop_table("comparisons")
    op.drop_column("jobs", "comparison")
