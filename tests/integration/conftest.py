"""Real servers and real worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gpu_worker.contract.folder_blobs import FolderBlobs
from tests.conftest import ROOT
from tests.valkey import ValkeyServer
from tests.worker_bench import Bench


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    """A Valkey server that forgets when it is killed. Its folder has a short path: a unix socket's is limited."""
    with tempfile.TemporaryDirectory(prefix="vk") as folder:
        server = ValkeyServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def lasting_valkey() -> Iterator[ValkeyServer]:
    """A Valkey server whose data survive being killed."""
    with tempfile.TemporaryDirectory(prefix="vk") as folder:
        server = ValkeyServer(Path(folder), keeps=True)
        server.start()
        yield server
        server.stop()


class Workers:
    """Starts worker processes with the stand-in engine and short leases."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, server: ValkeyServer, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        """`python -m gpu_worker` with these arguments. `settings` are PORTRAIT_ variables by their field names."""
        wanted = {
            "redis_url": server.url,
            "blobs_url": str(self._folder / "blobs"),
            "work_dir": str(self._folder / "work"),
            "engine_entry": "tests.stand_in_engine",
            "lease_s": "2",
            "report_every_s": "0",
            "stop_grace_s": "2",
            **settings,
        }
        environment = {**os.environ, **{f"PORTRAIT_{name.upper()}": value for name, value in wanted.items()}}
        process = subprocess.Popen([sys.executable, "-m", "gpu_worker", *arguments], cwd=ROOT, env=environment)
        self.started.append(process)
        return process

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    all_workers = Workers(tmp_path)
    yield all_workers
    all_workers.end()


@pytest.fixture
async def bench(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[Bench]:
    """The bot's side of the queue, on a server that forgets."""
    async with Bench(valkey, FolderBlobs(tmp_path / "blobs")) as made:
        yield made


@pytest.fixture
async def lasting_bench(lasting_valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[Bench]:
    """The bot's side of the queue, on a server that keeps its data."""
    async with Bench(lasting_valkey, FolderBlobs(tmp_path / "blobs")) as made:
        yield made
