"""The whole studio on one machine: queue, worker, bot and its Telegram frontend, with the sandbox in Telegram's place.

The bot is the production one, unchanged: it is given the sandbox's address and token as its settings, and nothing else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from bot.app import frontends_of, open_bot
from bot.db.database import Database
from bot.embedded import embedded_services
from bot.keys import master_keys
from bot.sandbox.server import Sandbox
from bot.settings import Settings
from gpu_worker.contract.blobs import BlobStore


@dataclass(frozen=True)
class LocalStudio:
    url: str  # of the chat page, and of the Bot API
    db: Database
    blobs: BlobStore
    worker_log: Path


@asynccontextmanager
async def local_studio(
    folder: Path, *, port: int = 0, worker_environment: Mapping[str, str] | None = None
) -> AsyncIterator[LocalStudio]:
    """Runs while it is entered; everything lies in `folder`, so that the next one goes on where this one was.

    Raises app.StartFailure, embedded.ServiceFailure, keys.NoMasterKey, and OSError when the port is taken.
    """
    blobs_url = str(folder / "blobs")
    worker = {"PORTRAIT_PROFILE": os.environ.get("PORTRAIT_PROFILE", "mini"), **(worker_environment or {})}
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(Sandbox(port=port, folder=folder / "sandbox"))
        settings = sandbox_settings(sandbox, folder, "", blobs_url)
        worker["PORTRAIT_MASTER_KEY"] = master_keys(settings).text()
        services = await stack.enter_async_context(
            embedded_services(folder, blobs_url=blobs_url, worker_environment=worker)
        )
        settings = settings.model_copy(update={"redis_url": SecretStr(services.redis_url)})
        async with open_bot(settings) as bot:
            stop = asyncio.Event()
            running = asyncio.create_task(bot.run(frontends_of(settings), stop))
            here = asyncio.current_task()
            assert here is not None
            # A bot that breaks ends what goes on inside; its error is raised below.
            running.add_done_callback(lambda task: None if stop.is_set() else here.cancel())
            try:
                yield LocalStudio(sandbox.url, bot.parts.db, bot.blobs, folder / "logs" / "worker.log")
            finally:
                stop.set()
                await running


def sandbox_settings(sandbox: Sandbox, folder: Path, redis_url: str, blobs_url: str) -> Settings:
    """The bot's settings: tokens and addresses of real chats are left out, whatever the environment says."""
    return Settings(
        _env_file=None,
        telegram_token=SecretStr(sandbox.token),
        telegram_api_url=sandbox.url,
        discord_token=None,
        database_url=None,
        data_dir=folder,
        redis_url=SecretStr(redis_url),
        blobs_url=blobs_url,
    )
