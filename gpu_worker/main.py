"""Puts one worker together: a queue and an engine process for checks, portraits and trainings each, and a heartbeat.

Checks answer people who are typing: their small process loads detection and recognition only. A portrait takes seconds
and a training minutes: while a portrait is made, the training pauses between two of its steps. Where the device's
memory is too small for both, they share one process and portraits wait. This process itself never loads torch.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from arq.connections import ArqRedis
from redis.exceptions import RedisError

from gpu_worker.background import beside, end
from gpu_worker.claims import Claims
from gpu_worker.contract.blobs import open_blobs
from gpu_worker.contract.jobs import CHECK_QUEUE, MORE_CANDIDATES, PORTRAIT_QUEUE, TRAIN_QUEUE, worker_key
from gpu_worker.engine_messages import NOTHING_EXPECTED, Expected, Options
from gpu_worker.engine_process import EngineCannotStart, EngineDied, EngineProcess
from gpu_worker.health import Numbers, PortTaken, health_page
from gpu_worker.queues import connect, serve_queue
from gpu_worker.settings import WorkerSettings
from gpu_worker.tasks import JobRunner, WorkerParts
from gpu_worker.workspace import Workspace

logger = logging.getLogger(__name__)

_HEARTBEAT_EVERY_S = 5.0
_HEARTBEAT_LIVES_S = 15
_START_AGAIN_S = 10.0


async def run_worker(settings: WorkerSettings) -> int:
    """Works until SIGTERM or SIGINT; then gives back what it is doing and returns 0. 1: the engine cannot start."""
    try:
        master = settings.master_keys()
    except (ValueError, OSError) as error:
        logger.error("no master key, see PORTRAIT_MASTER_KEY and PORTRAIT_MASTER_KEY_FILE: %s", error)
        return 1
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    worker_id = f"{socket.gethostname()}-{settings.device.replace(':', '')}-{secrets.token_hex(3)}"
    redis = connect(settings.redis_url.get_secret_value())
    workspace = Workspace(settings.work_dir)
    parts = WorkerParts(
        settings=settings,
        redis=redis,
        claims=Claims(redis, worker_id, settings.lease_s),
        blobs=open_blobs(settings.blobs_url),
        master=master,
        workspace=workspace,
        stopping=stopping,
        numbers=Numbers(settings.profile, settings.device, version("portrait-bot")),
    )
    lanes = _lanes(parts)
    logger.info("worker %s: profile %s, device %s", worker_id, settings.profile, settings.device)
    try:
        page = health_page(settings.health_host, settings.health_port, parts.numbers, lambda: _are_served(lanes))
        async with page, beside(_beat(worker_id, parts, lanes)):
            await _serve(parts, redis, lanes)
    except EngineCannotStart as error:
        logger.error("the engine cannot start: %s", error)
        return 1
    except PortTaken as error:
        logger.error("%s", error)
        return 1
    except EngineDied as error:
        logger.error("the engine process died while it started: %s", error)
        return 1
    finally:
        await asyncio.gather(*(lane.engine.kill() for lane in lanes))
        workspace.close()
        with suppress(RedisError, OSError):
            await redis.delete(worker_key(worker_id))
        await redis.aclose(close_connection_pool=True)
    logger.info("worker %s ended", worker_id)
    return 0


def _engine(
    settings: WorkerSettings, loader: Literal["load_checks", "load_renders"], expected: Expected = NOTHING_EXPECTED
) -> EngineProcess:
    options = Options(
        entry=settings.engine_entry,
        loader=loader,
        profile=settings.profile,
        device=settings.device,
        memory_mib=settings.engine_memory_mib,
        log_format=settings.log_format,
        log_level=settings.log_level,
        expected=expected,
    )
    # Where its models lie and how they run is all that the engine needs to know of our settings.
    models = {"PORTRAIT_MODELS_DIR": str(settings.models_dir), "PORTRAIT_FEW_STEP_LORA": settings.few_step_lora}
    if settings.small_gpu:
        models["PORTRAIT_SMALL_GPU"] = "1"
    if settings.models_checkpoint:
        models["PORTRAIT_MODELS_CHECKPOINT"] = str(settings.models_checkpoint)
    return EngineProcess(options, settings.start_timeout_s, models)


@dataclass
class _Lane:
    """One queue and what runs its jobs. Lanes that share an engine share the `turn`. `is_served`: jobs are taken."""

    queue: str
    engine: EngineProcess
    runner: JobRunner
    turn: asyncio.Semaphore
    is_served: bool = False


def _are_served(lanes: Sequence[_Lane]) -> bool:
    """Jobs of every kind are taken, and begin at once."""
    return all(lane.is_served and lane.engine.is_ready for lane in lanes)


def _lanes(parts: WorkerParts) -> list[_Lane]:
    def lane(queue: str, engine: EngineProcess, turn: asyncio.Semaphore, patient: EngineProcess | None = None) -> _Lane:
        return _Lane(queue, engine, JobRunner(parts, engine, patient), turn)

    settings = parts.settings
    candidates = tuple(dict.fromkeys((settings.portraits_per_job, MORE_CANDIDATES)))
    checks = lane(CHECK_QUEUE, _engine(settings, "load_checks"), asyncio.Semaphore(1))
    if settings.has_one_engine:
        both = _engine(settings, "load_renders", Expected(trainings=True, candidates=candidates))
        turn = asyncio.Semaphore(1)
        return [checks, lane(PORTRAIT_QUEUE, both, turn), lane(TRAIN_QUEUE, both, turn)]
    trains = _engine(settings, "load_renders", Expected(trainings=True))
    paints = _engine(settings, "load_renders", Expected(candidates=candidates))
    return [
        checks,
        lane(PORTRAIT_QUEUE, paints, asyncio.Semaphore(1), patient=trains),
        lane(TRAIN_QUEUE, trains, asyncio.Semaphore(1)),
    ]


async def _serve(parts: WorkerParts, redis: ArqRedis, lanes: Sequence[_Lane]) -> None:
    """Raises what an engine raises that cannot start: a worker without one must not take jobs."""

    async def serve(lane: _Lane) -> None:
        try:
            await _start_or_stop(lane.engine, parts.stopping)
            lane.is_served = True
            logger.info("serving %s", lane.queue)
            async with beside(_kept_warm(lane.engine, lane.turn)):
                await serve_queue(lane.queue, lane.runner, lane.turn, redis, parts.settings.lease_s, parts.stopping)
        finally:
            parts.stopping.set()  # the other queues give back what they are doing

    results = await asyncio.gather(*(serve(lane) for lane in lanes), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def _kept_warm(engine: EngineProcess, turn: asyncio.Semaphore) -> None:
    """Starts the engine again when it is gone and no job is to do that: who comes next shall find it ready."""
    while True:
        await engine.gone()
        async with turn:
            try:
                await engine.start()
                continue
            except (EngineCannotStart, EngineDied) as error:
                logger.error("the engine cannot start again: %s", error)
        await asyncio.sleep(_START_AGAIN_S)


async def _start_or_stop(engine: EngineProcess, stopping: asyncio.Event) -> None:
    """Warms the engine up, unless the worker is stopped meanwhile."""
    starting, stop = asyncio.create_task(engine.start()), asyncio.create_task(stopping.wait())
    await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
    await end(stop)
    if starting.done():
        starting.result()
    else:
        await end(starting)


async def _beat(worker_id: str, parts: WorkerParts, lanes: Sequence[_Lane]) -> None:
    """Tells the bot that there is a worker, and what it does."""
    started_at = time.time()
    while True:
        busy = {f"{lane.queue.rpartition(':')[2]}_job": lane.runner.job_id or "" for lane in lanes}
        fields = {
            "profile": parts.settings.profile,
            "device": parts.settings.device,
            "state": "ready" if _are_served(lanes) else "loading",
            "master_key": parts.master.names[0],
            "version": version("portrait-bot"),
            "started_at": started_at,
            "pid": os.getpid(),
            "one_engine": int(parts.settings.has_one_engine),
            **busy,
        }
        try:
            async with parts.redis.pipeline() as pipe:
                pipe.hset(worker_key(worker_id), mapping=fields)
                pipe.expire(worker_key(worker_id), _HEARTBEAT_LIVES_S)
                await pipe.execute()
        except (RedisError, OSError) as error:
            logger.warning("no heartbeat: %s", error)
        await asyncio.sleep(_HEARTBEAT_EVERY_S)
