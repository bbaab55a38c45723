"""expand desk: labels and reading states of studies, switches of the administrator"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "labels",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "study_id",
            sa.Integer(),
            sa.ForeignKey("studies.id", ondelete="CASCADE", name="fk_labels_study_id_studies"),
            nullable=False,
        ),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("added_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("added_at", _TIME, nullable=False),
        sa.UniqueConstraint("study_id", "label", name="uq_labels_study_id_label"),
    )
    op.create_index("ix_labels_study_id", "labels", ["study_id"])
    op.create_index("ix_labels_label", "labels", ["label"])
    op.create_table(
        "readings",
        sa.Column(
            "study_id",
            sa.Integer(),
            sa.ForeignKey("studies.id", ondelete="CASCADE", name="fk_readings_study_id_studies"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reader", sa.Text(), nullable=False, server_default=""),
        sa.Column("changed_at", _TIME, nullable=False),
    )
    op.create_table(
        "controls",
        sa.Column("name", sa.String(96), primary_key=True),
        sa.Column("value", _JSON, nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("changed_at", _TIME, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("controls")
    op.drop_table("readings")
    op.drop_table("labels")
