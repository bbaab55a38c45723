"""expand storage commitment: reports that are still owed, and what destinations committed to"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "commitment_reports",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("calling_ae_title", sa.String(64), nullable=False),
        sa.Column("instances", _JSON, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("due_at", _TIME, nullable=False),
        sa.Column("give_up_at", _TIME, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
    )
    op.create_index("ix_commitment_reports_due_at", "commitment_reports", ["due_at"])
    op.add_column(
        "deliveries", sa.Column("commitment", sa.String(16), nullable=False, server_default="")
    )
    op.add_column("deliveries", sa.Column("commitment_uid", sa.String(64)))
    op.add_column("deliveries", sa.Column("commitment_due_at", _TIME))
    op.add_column("deliveries", sa.Column("committed_at", _TIME))
    op.add_column(
        "deliveries",
        sa.Column("commitment_attempts", sa.Integer(), nullable=False, server_default="0"),
    )
    op.create_index("ix_deliveries_commitment_uid", "deliveries", ["commitment_uid"])
    op.create_index(
        "ix_deliveries_commitment_commitment_due_at",
        "deliveries",
        ["commitment", "commitment_due_at"],
    )


def downgrade() -> None:
    op.drop_index("ix_deliveries_commitment_commitment_due_at", table_name="deliveries")
    op.drop_index("ix_deliveries_commitment_uid", table_name="deliveries")
    for name in (
        "commitment_attempts",
        "committed_at",
        "commitment_due_at",
        "commitment_uid",
        "commitment",
    ):
        op.drop_column("deliveries", name)
    op.drop_table("commitment_reports")
