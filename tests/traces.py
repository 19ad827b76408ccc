"""What is left of people anywhere: rows, blobs, keys of Redis, files and work of workers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from redis.asyncio import Redis
from sqlalchemy import Text, cast, func, select

from bot.db import tables as t
from bot.db.database import open_engine
from bot.settings import Settings
from gpu_worker.contract.events import EVENT_STREAM
from gpu_worker.contract.jobs import EPOCH_KEY, WORKER_KEYS

_OF_NOBODY = {"kept_files"}  # pictures that everybody sees


async def traces(settings: Settings, work_dir: Path) -> list[str]:
    """Every trace of anybody, named; empty when the studio knows nobody. Workers may be alive, but idle."""
    return [*await _rows(settings), *_blobs(settings), *await _keys(settings), *_files(work_dir)]


async def no_traces(settings: Settings, work_dir: Path, within_s: float = 90) -> None:
    """Waits until nothing is left: a worker that is told to stop may still write for some seconds."""
    end = time.monotonic() + within_s
    while left := await traces(settings, work_dir):
        assert time.monotonic() < end, left
        await asyncio.sleep(0.25)


async def _rows(settings: Settings) -> list[str]:
    engine, found = open_engine(settings.database), []
    async with engine.connect() as connection:
        for table in t.Base.metadata.sorted_tables:
            query = select(func.count()).select_from(table)
            if table.name == "turns":  # what remains keeps an event from being handled twice and names nobody
                query = query.where(t.Turn.person.is_not(None) | t.Turn.chat.is_not(None))
            if table.name == "erasures":  # what keeps a late worker from bringing anything back names nobody either
                query = query.where(cast(t.Erasure.messages, Text) != "[]")
            count = (await connection.execute(query)).scalar_one()
            if count and table.name not in _OF_NOBODY:
                found.append(f"{count} rows in {table.name}")
    await engine.dispose()
    return found


def _blobs(settings: Settings) -> list[str]:
    return [f"blob {path}" for path in Path(settings.blobs_url, "users").rglob("*") if path.is_file()]


def _files(work_dir: Path) -> list[str]:
    return [f"file of a worker: {path}" for path in work_dir.glob("worker-*/*/**/*") if path.is_file()]


async def _keys(settings: Settings) -> list[str]:
    redis: Redis = Redis.from_url(settings.redis_url.get_secret_value())
    try:
        found = []
        prefix = WORKER_KEYS.removesuffix("*").encode()
        async for key in redis.scan_iter():
            if key.startswith(prefix):
                about = await redis.hgetall(key)  # type: ignore[misc]
                found += [f"worker's {name!r}: {value!r}" for name, value in about.items() if b"job" in name and value]
            elif not key.endswith(b"health-check") and key.decode() not in (EVENT_STREAM, EPOCH_KEY):
                found.append(f"key {key!r}")
        if length := await redis.xlen(EVENT_STREAM):
            found.append(f"{length} events")
        return found
    finally:
        await redis.aclose()
