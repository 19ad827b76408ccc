"""Indices for a long history: the queue, what ended, what is not shown; measured with a million jobs.

Revision: 0002
Follows: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UNSAID = sa.text("said_at IS NULL")
_UNSHOWN = sa.text("shown <> 'yes'")


def upgrade() -> None:
    op.drop_index("ix_jobs_status", "jobs")
    op.drop_index("ix_jobs_created_at", "jobs")
    op.create_index("ix_jobs_queue", "jobs", ["status", "kind", "score"])
    op.create_index("ix_jobs_ended", "jobs", ["status", "kind", "finished_at"])
    op.create_index("ix_jobs_unshown", "jobs", ["status"], postgresql_where=_UNSHOWN, sqlite_where=_UNSHOWN)
    op.create_index("ix_portraits_created_at", "portraits", ["created_at"])
    op.create_index("ix_sessions_state", "sessions", ["state", "touched_at"])
    op.drop_index("ix_turns_unsaid", "turns")
    op.create_index(
        "ix_turns_unsaid", "turns", ["platform", "person", "at"], postgresql_where=_UNSAID, sqlite_where=_UNSAID
    )


def downgrade() -> None:
    op.drop_index("ix_turns_unsaid", "turns")
    op.create_index("ix_turns_unsaid", "turns", ["person"], postgresql_where=_UNSAID, sqlite_where=_UNSAID)
    op.drop_index("ix_sessions_state", "sessions")
    op.drop_index("ix_portraits_created_at", "portraits")
    op.drop_index("ix_jobs_unshown", "jobs")
    op.drop_index("ix_jobs_ended", "jobs")
    op.drop_index("ix_jobs_queue", "jobs")
    op.create_index("ix_jobs_created_at", "jobs", ["created_at"])
    op.create_index("ix_jobs_status", "jobs", ["status"])
