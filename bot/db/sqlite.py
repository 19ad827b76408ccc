"""SQLite under SQLAlchemy's async engine, without a thread between every two statements.

SQLite runs inside of this process: a statement takes some tens of microseconds, while handing it to a thread and
waiting for the answer takes several times as long (aiosqlite does that four times for every statement). So statements
are executed where they are. Only what may wait goes to the connection's own thread: BEGIN IMMEDIATE, for the write
lock, and COMMIT, for the disk. Statements that read much have to be bounded, because nothing else runs meanwhile.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

T = TypeVar("T")

BEGIN_WRITING = "BEGIN IMMEDIATE"
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")


class Cursor:
    """The part of aiosqlite's cursor that SQLAlchemy's dialect uses."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cursor = connection.raw.cursor()

    async def __aenter__(self) -> Self:
        return self

    @property
    def description(self) -> Any:
        return self._cursor.description

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    @property
    def lastrowid(self) -> int | None:
        return self._cursor.lastrowid

    async def execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        if statement == BEGIN_WRITING:
            await self._connection.in_thread(lambda: self._cursor.execute(statement))
        else:
            self._cursor.execute(statement, values)

    async def executemany(self, statement: str, values: Sequence[Sequence[Any]]) -> None:
        self._cursor.executemany(statement, values)

    async def fetchall(self) -> list[Any]:
        return self._cursor.fetchall()

    async def close(self) -> None:
        self._cursor.close()


class Connection:
    """The part of aiosqlite's connection that SQLAlchemy's dialect uses. It begins no transaction by itself."""

    def __init__(self, raw: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self.raw, self._thread = raw, thread
        self._connection: sqlite3.Connection | None = raw  # the dialect looks whether it is open
        self._is_lasting = True

    def let_last(self, *, is_lasting: bool) -> None:
        """Whether the next transaction waits until the disk has it; without that a power cut may undo it."""
        if self._is_lasting is not is_lasting:
            self.raw.execute(f"PRAGMA synchronous={'FULL' if is_lasting else 'NORMAL'}")
            self._is_lasting = is_lasting

    def cursor(self) -> Cursor:
        return Cursor(self)

    async def create_function(self, *arguments: Any, **options: Any) -> None:
        self.raw.create_function(*arguments, **options)

    async def commit(self) -> None:
        if self.raw.in_transaction:
            await self.in_thread(self.raw.commit)

    async def rollback(self) -> None:
        self.raw.rollback()

    async def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        self._connection = None
        self.raw.close()
        self._thread.shutdown(wait=False)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Who is cancelled meanwhile hears of it afterwards: until then nobody knows what became of it."""
        working = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.wait([working])
            raise


async def connect(database: str, timeout_s: float) -> Connection:
    """A connection to a file, or to ":memory:". `timeout_s`: the longest wait for another process's lock."""
    thread = ThreadPoolExecutor(1, "sqlite")
    return Connection(await asyncio.get_running_loop().run_in_executor(thread, _open, database, timeout_s), thread)


def _open(database: str, timeout_s: float) -> sqlite3.Connection:
    raw = sqlite3.connect(database, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    for pragma in _PRAGMAS:
        raw.execute(f"PRAGMA {pragma}")
    return raw
