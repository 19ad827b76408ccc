"""`python -m bot check`: is everything there that the bot needs? One line each; each bad line says what to do."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp
from alembic.script import ScriptDirectory
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from bot.db.database import open_database, open_engine
from bot.db.migrate import alembic_config
from bot.keys import NoMasterKey, UserKeys, master_keys
from bot.queue import AliveWorker, open_queue
from bot.settings import Settings, WrongSettings, read_settings
from gpu_worker.contract.blobs import open_blobs
from gpu_worker.contract.sealing import MasterKeys

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
    findings = [*await _tokens(settings), await _master_key(settings)]
    for what, remedy, ask in (
        ("database", "check PORTRAIT_DATABASE_URL and that its server runs", _database),
        ("storage", "check PORTRAIT_BLOBS_URL, and that the bot may write there", _storage),
        ("queue and workers", "check PORTRAIT_REDIS_URL and that its server runs", _queue),
    ):
        findings += await _asked(what, remedy, ask, settings)
    return findings


async def _tokens(settings: Settings) -> list[Finding]:
    """Asks each platform who we are."""
    asked: list[Awaitable[Finding]] = []
    if settings.telegram_token:
        token, api = settings.telegram_token.get_secret_value(), settings.telegram_api_url
        remedy = "get a new one from @BotFather and set PORTRAIT_TELEGRAM_TOKEN"
        asked.append(_token("Telegram", f"{api}/bot{token}/getMe", {}, remedy))
    if settings.discord_token:
        header = {"Authorization": f"Bot {settings.discord_token.get_secret_value()}"}
        remedy = "reset it in the developer portal and set PORTRAIT_DISCORD_TOKEN"
        asked.append(_token("Discord", f"{settings.discord_api_url.rstrip('/')}/v10/users/@me", header, remedy))
    if not asked:
        return [Finding("tokens", "none", "set PORTRAIT_TELEGRAM_TOKEN or PORTRAIT_DISCORD_TOKEN")]
    return list(await asyncio.gather(*asked))


async def _token(platform: str, url: str, headers: dict[str, str], remedy: str) -> Finding:
    what, timeout = f"{platform} token", aiohttp.ClientTimeout(_LONGEST_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as client, client.get(url, headers=headers) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        # Only the kind: the address in the error's words holds the token.
        return Finding(what, f"{platform} cannot be reached ({type(error).__name__})", "check the way to the internet")
    if status in (401, 403, 404):
        return Finding(what, f"{platform} does not know it", remedy)
    if status >= 400:
        return Finding(what, f"{platform} answers {status}", "try again later")
    return Finding(what, f"{platform} knows it")


async def _master_key(settings: Settings) -> Finding:
    path = settings.master_key_file or settings.data_dir / "master.key"
    if not settings.master_key and not settings.master_key_file and not path.exists():
        return Finding("master key", f"none yet; the bot makes {path} when it starts")
    try:
        keys = master_keys(settings, may_make=False)
    except NoMasterKey as error:
        return Finding("master key", str(error), "without it nothing that people have given can be read")
    if not settings.master_key and path.stat().st_mode & 0o077:
        return Finding("master key", f"{path} can be read by others", f"chmod 600 {path}")
    db = open_database(settings.database)
    try:
        lost = await UserKeys(db, keys).unopenable()
    except SQLAlchemyError:
        lost = 0  # the line about the database says what is wrong
    finally:
        await db.close()
    if lost:
        remedy = "set PORTRAIT_MASTER_KEY to the key that was in use, or to the new one followed by that one"
        return Finding("master key", f"it does not open the keys of {lost} users", remedy)
    return Finding("master key", f"{keys.names[0]}, opens every user's key")


def _keys_or_none(settings: Settings) -> MasterKeys | None:
    try:
        return master_keys(settings, may_make=False)
    except NoMasterKey:
        return None


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
        return [Finding("queue", "answers"), *_workers(await queue.alive(), _keys_or_none(settings))]
    finally:
        await queue.close()


def _workers(workers: list[AliveWorker], keys: MasterKeys | None) -> list[Finding]:
    if not workers:
        remedy = "start one with `python -m gpu_worker` (what it lacks it says itself)"
        return [Finding("workers", "none alive", remedy)]
    about = ", ".join(f"{worker.profile} on {worker.device}" for worker in workers)
    found = [Finding("workers", f"{len(workers)} alive ({about})")]
    loading = [worker for worker in workers if worker.state == "loading"]
    if loading:
        remedy = "wait; if it lasts, run `python -m engine models check` where the worker runs, and look into its log"
        found.append(Finding("weights", f"{len(loading)} of {len(workers)} workers are starting", remedy))
    else:
        found.append(Finding("weights", "loaded by every worker"))
    strange = [worker for worker in workers if keys and worker.master_key not in (*keys.names, "?")]
    if strange:
        remedy = "give them the bot's PORTRAIT_MASTER_KEY and start them again"
        found.append(Finding("workers' master key", f"{len(strange)} have another one", remedy))
    return found
