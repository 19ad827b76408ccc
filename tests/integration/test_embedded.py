"""The bundled services: supervised while we live, gone when we are."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from bot.embedded import embedded_services
from tests.conftest import ROOT


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(condition: object, within_s: float = 60) -> None:
    assert callable(condition)
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_what_is_written_outlives_the_server_and_the_bot(tmp_path: Path) -> None:
    async with embedded_services(tmp_path, blobs_url="blobs", with_worker=False) as services:
        redis = Redis.from_url(services.redis_url)
        await redis.set("a", 1)
        await redis.execute_command("WAITAOF", 1, 0, 0)  # until the append-only file is on the disk
        assert services.valkey.process is not None
        first = services.valkey.process.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: services.valkey.process is not None and services.valkey.process.pid != first)
        async with asyncio.timeout(60):
            while True:
                with suppress(RedisError):
                    assert await redis.get("a") == b"1"
                    break
                await asyncio.sleep(0.05)
        await redis.set("b", 2)
        await redis.aclose()
    async with embedded_services(tmp_path, blobs_url="blobs", with_worker=False) as services:
        redis = Redis.from_url(services.redis_url)
        assert await redis.get("b") == b"2"
        await redis.aclose()


async def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    async with embedded_services(deep, blobs_url="blobs", with_worker=False) as services:
        redis = Redis.from_url(services.redis_url)
        assert await redis.ping()
        await redis.aclose()


_PROGRAM = """
import asyncio, sys
from pathlib import Path
from bot.embedded import embedded_services

async def main():
    async with embedded_services(Path(sys.argv[1]), blobs_url="blobs", worker_environment={}) as services:
        print(services.valkey.process.pid, services.worker.process.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_no_orphan_survives_a_bot_that_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PROGRAM, str(tmp_path)]
    bot = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert bot.stdout is not None
    children = [int(pid) for pid in (await asyncio.to_thread(bot.stdout.readline)).split()]
    assert len(children) == 2
    assert all(is_alive(pid) for pid in children)
    bot.kill()
    bot.wait()
    await until(lambda: not any(is_alive(pid) for pid in children))
