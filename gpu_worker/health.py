"""A small page for whatever watches a worker: does it live, does it take jobs, and its numbers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gpu_worker.contract.events import FAILURE_REASONS
from gpu_worker.contract.jobs import JobKind

logger = logging.getLogger(__name__)

_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class PortTaken(Exception):
    """The message is a sentence."""


class Numbers:
    """Counted as it happens. Labels are closed lists: no job or person is ever one."""

    def __init__(self, profile: str, device: str, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        self._jobs = Counter("portrait_worker_jobs", "Jobs by outcome", ["kind", "outcome"], registry=registry)
        self._took = Histogram(
            "portrait_worker_job_seconds", "From claim to outcome", ["kind"], buckets=_SECONDS, registry=registry
        )
        self._busy = Gauge("portrait_worker_busy", "Jobs that run now", registry=registry)
        info = Gauge("portrait_worker", "Always 1", ["profile", "device", "version"], registry=registry)
        info.labels(profile, device, version).set(1)

    def begun(self) -> None:
        self._busy.inc()

    def ended(self) -> None:
        self._busy.dec()

    def outcome(self, kind: JobKind, reason: str | None, seconds: float) -> None:
        """`reason`: why it failed; None for a success."""
        outcome = "succeeded" if reason is None else reason if reason in FAILURE_REASONS else "other"
        self._jobs.labels(kind, outcome).inc()
        self._took.labels(kind).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)


@asynccontextmanager
async def health_page(
    host: str, port: int | None, numbers: Numbers, is_ready: Callable[[], bool]
) -> AsyncIterator[str | None]:
    """Serves /healthz, /readyz and /metrics while entered, at the address it gives; None without a port.

    Raises PortTaken.
    """
    if port is None:
        yield None
        return

    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        """200 once every engine process is warm and its queue is served."""
        state = "ok" if is_ready() else "loading"
        return web.json_response({"engines": state}, status=200 if state == "ok" else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=numbers.text(), headers={"Content-Type": _METRICS_TYPE})

    app = web.Application()
    app.add_routes([web.get("/healthz", alive), web.get("/readyz", ready), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise PortTaken(f"the health page cannot be served on {host}:{port}: {error.strerror}") from error
        bound = runner.addresses[0]
        logger.info("health page on %s:%s", bound[0], bound[1])
        yield f"http://{bound[0]}:{bound[1]}"
    finally:
        await runner.cleanup()
