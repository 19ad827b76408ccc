"""`python -m bot check`: is everything there that the bot needs? One line each; each bad line says what to do."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from alembic.script import ScriptDirectory
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from bot.db.database import open_engine
from bot.db.migrate import alembic_config
from bot.queue import JobQueue, open_queue
from bot.settings import Settings, WrongSettings, read_settings
from gpu_worker.contract.blobs import open_blobs
from gpu_worker.contract.jobs import WORKER_KEYS

_LONGEST_S = 10.0


@dataclass(frozen=True)
class Finding:
    """`what` was looked at; `remedy` is empty when all is well."""

    what: str
    state: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{'ok ' if not self.remedy else 'BAD'}  {self.what}: {self.state}{self.remedy and '; '}{self.remedy}"


def main(arguments: Sequence[str]) -> int:
    """0 when everything is well, else 1. `--quiet` prints only what is not."""
    parser = argparse.ArgumentParser(prog="python -m bot check", description=__doc__)
    parser.add_argument("--quiet", action="store_true", help="print only what is wrong")
    options = parser.parse_args(arguments)
    try:
        findings = asyncio.run(look(read_settings()))
    except WrongSettings as error:
        sys.stdout.write(f"BAD  settings: {error}\n")
        return 1
    for finding in findings:
        if finding.remedy or not options.quiet:
            sys.stdout.write(f"{finding}\n")
    return 1 if any(finding.remedy for finding in findings) else 0


async def look(settings: Settings) -> list[Finding]:
    """Everything, in the order in which an operator would mend it."""
    findings = [_tokens(settings)]
    for what, remedy, ask in (
        ("database", "check PORTRAIT_DATABASE_URL and that its server runs", _database),
        ("storage", "check PORTRAIT_BLOBS_URL, and that the bot may write there", _storage),
        ("queue and workers", "check PORTRAIT_REDIS_URL and that its server runs", _queue),
    ):
        findings += await _asked(what, remedy, ask, settings)
    return findings


def _tokens(settings: Settings) -> Finding:
    platforms = {"Telegram": settings.telegram_token, "Discord": settings.discord_token}
    on = [name for name, token in platforms.items() if token is not None]
    if not on:
        return Finding("tokens", "none", "set PORTRAIT_TELEGRAM_TOKEN or PORTRAIT_DISCORD_TOKEN")
    return Finding("tokens", " and ".join(on))


async def _asked(
    what: str, remedy: str, ask: Callable[[Settings], Awaitable[list[Finding]]], settings: Settings
) -> list[Finding]:
    try:
        async with asyncio.timeout(_LONGEST_S):
            return await ask(settings)
    except TimeoutError:
        return [Finding(what, f"no answer within {_LONGEST_S:.0f} s", remedy)]
    except (SQLAlchemyError, RedisError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        return [Finding(what, reason, remedy)]


async def _database(settings: Settings) -> list[Finding]:
    head = ScriptDirectory.from_config(alembic_config(settings.database)).get_current_head()
    engine = open_engine(settings.database)
    try:
        async with engine.connect() as connection:
            name = engine.dialect.name
            try:
                revision = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar()
            except SQLAlchemyError:
                revision = None  # a new database: the bot fills it when it starts
    finally:
        await engine.dispose()
    if revision == head:
        return [Finding("database", f"{name}, revision {revision}")]
    state = f"{name}, revision {revision or 'none'} instead of {head}"
    if settings.migrate_at_start:
        return [Finding("database", f"{state}; the bot brings it there when it starts")]
    return [Finding("database", state, "start the bot once with PORTRAIT_MIGRATE_AT_START=true")]


async def _storage(settings: Settings) -> list[Finding]:
    blobs = open_blobs(settings.blobs_url)
    key, data = f"check/{secrets.token_hex(8)}", secrets.token_bytes(32)
    await blobs.put(key, data)
    read = await blobs.get(key)
    await blobs.delete_prefix(key)
    if read != data:
        return [Finding("storage", "what was written reads differently", "check the disk or the bucket")]
    return [Finding("storage", "written, read and deleted")]


async def _queue(settings: Settings) -> list[Finding]:
    queue = await open_queue(settings.redis_url.get_secret_value())
    try:
        return [Finding("queue", "answers"), await _workers(queue)]
    finally:
        await queue.close()


async def _workers(queue: JobQueue) -> Finding:
    about: list[str] = []
    async for key in queue.redis.scan_iter(match=WORKER_KEYS, count=500):
        # redis-py types the commands of both its clients at once.
        profile, device = await queue.redis.hmget(key, ["profile", "device"])  # type: ignore[misc]
        about.append(f"{(profile or b'?').decode()} on {(device or b'?').decode()}")
    if not about:
        remedy = "start one with `python -m gpu_worker` (what it lacks it says itself)"
        return Finding("workers", "none alive", remedy)
    return Finding("workers", f"{len(about)} alive ({', '.join(sorted(about))})")
