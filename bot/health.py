"""A small page for whatever watches the bot: does it live, can it work, and its numbers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from aiohttp import web
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from bot.parts import Parts

logger = logging.getLogger(__name__)

_LONGEST_S = 5.0
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class PortTaken(Exception):
    """The message is a sentence for the operator."""


@asynccontextmanager
async def health_page(parts: Parts, platforms: frozenset[str]) -> AsyncIterator[str | None]:
    """Serves /healthz, /readyz and /metrics while entered, at the address it gives; None without a port.

    `platforms` are those that must be connected. Raises PortTaken.
    """
    settings = parts.settings
    if settings.health_port is None:
        yield None
        return
    page = _Page(parts, platforms)
    app = web.Application()
    app.add_routes([web.get("/healthz", page.alive), web.get("/readyz", page.ready), web.get("/metrics", page.metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.health_host, settings.health_port).start()
        except OSError as error:
            place = f"{settings.health_host}:{settings.health_port}"
            raise PortTaken(f"The health page cannot be served on {place}: {error.strerror}.") from error
        host, port = runner.addresses[0][:2]
        logger.info("health page on %s:%s", host, port)
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


class _Page:
    def __init__(self, parts: Parts, platforms: frozenset[str]) -> None:
        self._parts, self._platforms = parts, platforms

    async def alive(self, _: web.Request) -> web.Response:
        """That the event loop turns."""
        return web.json_response({"status": "ok"})

    async def ready(self, _: web.Request) -> web.Response:
        """200 when database and queue answer and every platform is connected; 503 says which is not."""
        found = {
            "database": await self._answers(self._database),
            "queue": await self._answers(self._queue),
            **{platform: platform in self._parts.chats for platform in sorted(self._platforms)},
        }
        words = {name: "ok" if is_well else "away" for name, is_well in found.items()}
        return web.json_response(words, status=200 if all(found.values()) else 503)

    async def metrics(self, _: web.Request) -> web.Response:
        parts = self._parts
        async with parts.db.transaction() as store:
            jobs = await store.operations.jobs_by_state(parts.clock() - timedelta(days=1))
            totals = await store.operations.totals()
        try:
            workers = [
                (worker.profile, worker.device, worker.version, worker.state) for worker in await parts.queue.alive()
            ]
        except (RedisError, OSError):
            workers = []
        parts.metrics.measured(jobs, totals, workers)
        return web.Response(body=parts.metrics.text(), headers={"Content-Type": _METRICS_TYPE})

    async def _database(self) -> None:
        async with self._parts.db.transaction() as store:
            await store.operations.is_on("drain")

    async def _queue(self) -> None:
        await self._parts.queue.redis.ping()

    async def _answers(self, ask: Callable[[], Awaitable[None]]) -> bool:
        try:
            async with asyncio.timeout(_LONGEST_S):
                await ask()
        except (SQLAlchemyError, RedisError, OSError) as error:
            logger.info("not ready: %s", type(error).__name__)
            return False
        return True
