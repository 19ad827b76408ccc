"""The database: SQLite or PostgreSQL, one transaction at a time."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from bot.db import sqlite
from bot.db.store import Store
from gpu_worker.contract.sealing import CannotOpen

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BUSY_TIMEOUT_S = 30
_LONGEST_PAUSE_S = 5.0
_READS, _LASTS = "portrait_reads", "portrait_lasts"  # execution options
_OUR_MISTAKES = (DataError, IntegrityError, NotSupportedError, ProgrammingError)


def is_away(error: BaseException) -> bool:
    """Whether database or disk are away for now, as opposed to a statement that can never succeed.

    A server that restarts is told in many ways, by some drivers as the plain base class of their errors.
    """
    if isinstance(error, DBAPIError):
        return not isinstance(error, _OUR_MISTAKES)
    return isinstance(error, OSError) and not isinstance(error, CannotOpen)


class Database:
    """Opens transactions. Close it when done."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine, self._reading = engine, engine.execution_options(**{_READS: True})
        self._noting = engine.execution_options(**{_LASTS: False})
        # SQLite has one writer, and who waits for it polls: in here we queue instead, first come, first served.
        self._turn: asyncio.Lock | nullcontext[None] = (
            asyncio.Lock() if engine.dialect.name == "sqlite" else nullcontext()
        )

    @asynccontextmanager
    async def transaction(self, *, lasting: bool = True) -> AsyncIterator[Store]:
        """Commits when the block ends, rolls back when it raises. Nobody else commits.

        Whatever is committed outlives the process. `lasting`: also a power cut. Without it, it does so once the next
        lasting transaction has ended; that is enough for what would only be said or reported once more.
        """
        engine = self._engine if lasting else self._noting
        async with self._turn, AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            yield Store(session)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Store]:
        """What was committed last. Waits for no writer and holds up none; nothing may be written in it."""
        async with AsyncSession(self._reading, expire_on_commit=False) as session, session.begin():
            yield Store(session)

    async def outlasting(self, action: Callable[[], Awaitable[T]], for_s: float = math.inf) -> T:
        """The result of `action`, which is repeated while the database is away, for `for_s` seconds at most.

        Then, and at once for any other reason, raises what `action` raises. `action` must bear being repeated although
        it succeeded: the answer to a commit may be what got lost.
        """
        loop, pause_s = asyncio.get_running_loop(), 0.2
        deadline = loop.time() + for_s
        while True:
            try:
                return await action()
            except Exception as error:
                if not is_away(error) or loop.time() + pause_s > deadline:
                    raise
                logger.warning("database or disk are away, trying again in %.1f s: %s", pause_s, type(error).__name__)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def close(self) -> None:
        await self._engine.dispose()


def open_database(url: str) -> Database:
    """`url` is an async SQLAlchemy URL. A SQLite file's folder is made."""
    return Database(open_engine(url))


def open_engine(url: str) -> AsyncEngine:
    # Errors end up in logs, and what people say must not: parameters are hidden.
    parts = make_url(url)
    if parts.get_backend_name() != "sqlite":
        return create_async_engine(parts, pool_pre_ping=True, hide_parameters=True)
    if parts.database:
        Path(parts.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    creator = partial(sqlite.connect, parts.database or ":memory:", _BUSY_TIMEOUT_S)
    engine = create_async_engine(parts, async_creator=lambda *_, **__: creator(), hide_parameters=True)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    """Takes the write lock first: a transaction that reads and then writes would silently lose another one's update."""
    options = connection.get_execution_options()
    if options.get(_READS):
        connection.exec_driver_sql("BEGIN")
        return
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite.Connection)
    driver.let_last(is_lasting=options.get(_LASTS, True))
    connection.exec_driver_sql(sqlite.BEGIN_WRITING)
