"""The database: SQLite or PostgreSQL, one transaction at a time."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from bot.db.store import Store

_BUSY_TIMEOUT_S = 30


class Database:
    """Opens transactions. Close it when done."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # SQLite has one writer, and who waits for it polls: in here we queue instead, first come, first served.
        self._turn: asyncio.Lock | nullcontext[None] = (
            asyncio.Lock() if engine.dialect.name == "sqlite" else nullcontext()
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Store]:
        """Commits when the block ends, rolls back when it raises. Nobody else commits."""
        async with self._turn, AsyncSession(self._engine, expire_on_commit=False) as session, session.begin():
            yield Store(session)

    async def close(self) -> None:
        await self._engine.dispose()


def open_database(url: str) -> Database:
    """`url` is an async SQLAlchemy URL. A SQLite file's folder is made."""
    return Database(open_engine(url))


def open_engine(url: str) -> AsyncEngine:
    parts = make_url(url)
    if parts.get_backend_name() != "sqlite":
        return create_async_engine(parts, pool_pre_ping=True)
    if parts.database:
        Path(parts.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = create_async_engine(parts, connect_args={"timeout": _BUSY_TIMEOUT_S})
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_immediate)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # the driver must not begin by itself: see _begin_immediate
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    """Takes the write lock first: a transaction that reads and then writes would silently lose another one's update."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
