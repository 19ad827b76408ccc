"""A whole studio of real processes: Valkey, a worker with a stand-in engine, the bot; and the sandbox to talk to it."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bot.app import open_bot
from bot.db.database import Database, open_database
from bot.domain import JobStatus
from bot.sandbox.local import sandbox_settings
from bot.sandbox.person import Person
from bot.sandbox.server import Sandbox
from bot.sandbox.transcript import Transcript
from bot.sandbox.visit import Visitor
from tests.conftest import ROOT
from tests.valkey import ValkeyServer


class Studio:
    """`bot` and `worker` are processes that a test may kill; `start_bot` and `start_worker` start them (again)."""

    def __init__(self, folder: Path, valkey: ValkeyServer, sandbox: Sandbox) -> None:
        self._folder, self._valkey, self.sandbox = folder, valkey, sandbox
        self.work_dir = folder / "work"
        self.settings = sandbox_settings(sandbox, folder, valkey.url, str(folder / "blobs"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.db: Database = open_database(self.settings.database)

    def start_bot(self) -> None:
        self.bot = self._start(
            "bot",
            telegram_token=self.sandbox.token,
            telegram_api_url=self.sandbox.url,
            data_dir=str(self._folder),
            quiet_s="0.3",
            progress_every_s="0.5",
        )

    def start_worker(self, engine: str = "tests.stand_in_engine") -> None:
        self.worker = self._start(
            "gpu_worker", work_dir=str(self.work_dir), engine_entry=engine, lease_s="2", report_every_s="0.2"
        )

    def _start(self, module: str, **settings: str) -> subprocess.Popen[bytes]:
        wanted = {"redis_url": self._valkey.url, "blobs_url": str(self._folder / "blobs"), **settings}
        environment = {**os.environ, **{f"PORTRAIT_{name.upper()}": value for name, value in wanted.items()}}
        process = subprocess.Popen([sys.executable, "-m", module], cwd=ROOT, env=environment)
        self._processes.append(process)
        return process

    @contextmanager
    def paused_worker(self) -> Iterator[None]:
        """No job is begun meanwhile."""
        self.worker.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.worker.send_signal(signal.SIGCONT)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """As the kernel's memory killer would: no goodbye."""
        process.kill()
        process.wait()

    async def end(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                await asyncio.to_thread(process.wait, 60)
            except subprocess.TimeoutExpired:
                process.kill()
        await self.db.close()

    @asynccontextmanager
    async def visitor(self, user: int = 1001, language: str = "en") -> AsyncIterator[Visitor]:
        transcript = Transcript(lambda line: None)
        async with Person(self.sandbox.url, user, language=language) as person:
            following = asyncio.create_task(transcript.follow(person))
            try:
                yield Visitor(person, transcript)
            finally:
                following.cancel()
                sys.stdout.write("\n".join(transcript.lines) + "\n")  # pytest shows it when the test fails

    async def is_judged(self, session_id: str) -> bool:
        async with self.db.transaction() as store:
            stored = await store.collections.get(session_id)
        return stored is not None and bool(stored.collection.photos) and not stored.collection.is_checking

    async def has_failed(self, job_id: str) -> bool:
        return await self.status(job_id) in (JobStatus.FAILED, JobStatus.CANCELLED)

    async def status(self, job_id: str) -> JobStatus | None:
        async with self.db.transaction() as store:
            job = await store.jobs.get(job_id)
        return job.status if job else None

    async def until_it_runs(self, job_id: str) -> None:
        """Or has run already: who looks late on a busy machine may have missed it."""
        async with asyncio.timeout(90):
            while await self.status(job_id) in (None, JobStatus.QUEUED):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@pytest.fixture
async def studio(tmp_path: Path) -> AsyncIterator[Studio]:
    """Everything but worker and bot runs; the test starts those."""
    with tempfile.TemporaryDirectory(prefix="vk") as folder:
        valkey = ValkeyServer(Path(folder), keeps=True)
        valkey.start()
        async with Sandbox() as sandbox:
            made = Studio(tmp_path, valkey, sandbox)
            async with open_bot(made.settings):
                pass  # the database is there before anybody looks into it
            yield made
            await made.end()
        valkey.stop()


def selfie(number: int, size: tuple[int, int] = (400, 400)) -> bytes:
    """Any picture: the stand-in engine finds every face."""
    noise = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize(size).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def selfies(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "selfies"
    folder.mkdir()
    paths = [folder / f"selfie-{number}.jpg" for number in range(1, 7)]
    for number, path in enumerate(paths):
        path.write_bytes(selfie(number))
    return paths
