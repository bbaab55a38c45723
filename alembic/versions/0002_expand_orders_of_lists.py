"""expand orders of lists"""

from collections.abc import Sequence

from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_INDICES = (
    ("studies", ["state", "urgency", "received_at", "id"]),
    ("studies", ["study_date", "id"]),
    ("studies", ["patient_name", "id"]),
    ("jobs", ["created_at", "id"]),
)


def upgrade() -> None:
    for table, columns in _INDICES:
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)


def downgrade() -> None:
    for table, columns in reversed(_INDICES):
        op.drop_index(f"ix_{table}_{'_'.join(columns)}", table_name=table)
