"""Blocks, grants, rules of servers, reports, switches; where a job was ordered; when people were warned.

Revision: 0005
Follows: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blocks",
        sa.Column("platform", sa.String(length=16), nullable=False),
        sa.Column("person", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("platform", "person", name=op.f("pk_blocks")),
    )
    op.create_table(
        "guilds",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("roles", sa.JSON(), nullable=False),
        sa.Column("channels", sa.JSON(), nullable=False),
        sa.Column("trainings_per_day", sa.Integer(), nullable=True),
        sa.Column("portraits_per_day", sa.Integer(), nullable=True),
        sa.Column("is_spoiler", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_guilds")),
    )
    op.create_table(
        "switches",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_switches")),
    )
    op.create_table(
        "grants",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("user_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("amount", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_grants_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
    )
    op.create_index("ix_grants_user_id", "grants", ["user_id"])
    op.create_table(
        "reports",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("user_id", sa.String(length=40), nullable=False),
        sa.Column("portrait_id", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["portrait_id"], ["portraits.id"], name=op.f("fk_reports_portrait_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_reports_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
    )
    op.create_index("ix_reports_portrait_id", "reports", ["portrait_id"])
    op.create_index("ix_reports_user_id", "reports", ["user_id"])
    # One by one: SQLite would rebuild a table in batch mode, and take what hangs on its rows with the old one.
    op.add_column("jobs", sa.Column("guild_id", sa.String(length=32), nullable=True))
    op.create_index("ix_jobs_guild", "jobs", ["guild_id", "created_at"])
    op.add_column("portraits", sa.Column("kept_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("portraits", sa.Column("warned_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("subjects", sa.Column("warned_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("subjects", "warned_at")
    op.drop_column("portraits", "warned_at")
    op.drop_column("portraits", "kept_at")
    op.drop_index("ix_jobs_guild", "jobs")
    op.drop_column("jobs", "guild_id")
    for table in ("reports", "grants", "switches", "guilds", "blocks"):
        op.drop_table(table)
