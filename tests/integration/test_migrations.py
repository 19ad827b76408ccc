"""One migration history for both databases: up, down, with data, and no drift from the tables."""

from __future__ import annotations

import asyncio

from alembic import command
from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.db.database import open_database, open_engine
from bot.db.migrate import alembic_config, downgrade, upgrade
from bot.db.tables import Base
from bot.parts import utc_now
from tests.bot_bench import ANNA
from tests.integration.postgres import database_url

__all__ = ["database_url"]


async def _names(connection: AsyncConnection) -> set[str]:
    return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


async def tables(url: str) -> set[str]:
    engine = open_engine(url)
    async with engine.connect() as connection:
        names = await _names(connection)
    await engine.dispose()
    return names - {"alembic_version"}


def test_the_history_makes_exactly_the_tables(database_url: str) -> None:
    upgrade(database_url)
    assert asyncio.run(tables(database_url)) == set(Base.metadata.tables)
    command.check(alembic_config(database_url))  # raises when the tables have drifted from the history


def test_down_and_up_again(database_url: str) -> None:
    upgrade(database_url)
    downgrade(database_url)
    assert asyncio.run(tables(database_url)) == set()
    upgrade(database_url)
    assert asyncio.run(tables(database_url)) == set(Base.metadata.tables)


def test_a_second_start_changes_nothing(database_url: str) -> None:
    async def meet() -> str:
        db = open_database(database_url)
        async with db.transaction() as store:
            person = await store.people.meet(ANNA, "en", utc_now())
        await db.close()
        return person.user_id

    upgrade(database_url)
    first = asyncio.run(meet())
    upgrade(database_url)
    assert asyncio.run(meet()) == first
