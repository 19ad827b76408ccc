"""How alembic reaches the database: the URL comes from the caller, or from the settings on the command line."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection

from bot.db.database import open_engine
from bot.db.tables import Base, Moment
from bot.settings import Settings


def render(kind: str, item: Any, _: AutogenContext) -> str | Literal[False]:
    """Migrations must not depend on our code of today."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, Moment) else False


def run(connection: Connection) -> None:
    # Batch mode: SQLite cannot alter tables, so alembic rebuilds them there.
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
        render_item=render,
    )
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_run(url: str) -> None:
    engine = open_engine(url)
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


asyncio.run(connect_and_run(context.config.attributes.get("database_url") or Settings().database))
