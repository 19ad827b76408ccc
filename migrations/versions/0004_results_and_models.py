"""Favourites, names and retraining of models, faces of templates.

Revision: 0004
Follows: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("portraits", sa.Column("is_favourite", sa.Boolean(), nullable=False, server_default=sa.false())),
    ("sessions", sa.Column("name", sa.String(64))),
    ("sessions", sa.Column("keeps_photos", sa.Boolean(), nullable=False, server_default=sa.false())),
    ("sessions", sa.Column("retrains_id", sa.String(40))),
    ("subjects", sa.Column("session_id", sa.String(40))),
    ("templates", sa.Column("boxes", sa.JSON())),
)


def upgrade() -> None:
    for table, column in _COLUMNS:
        op.add_column(table, column.copy())


def downgrade() -> None:
    for table, column in reversed(_COLUMNS):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column.name)
