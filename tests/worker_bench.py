"""The bot's side of the queue, for tests: enqueue jobs, read the event stream, cancel."""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from PIL import Image
from redis.exceptions import RedisError

from gpu_worker.contract import codec
from gpu_worker.contract.blobs import BlobNotFound, BlobStore
from gpu_worker.contract.events import EVENT, EVENT_FIELD, EVENT_STREAM, Failed, Progress, Started, Succeeded
from gpu_worker.contract.jobs import (
    QUEUE_OF_KIND,
    TASK_OF_KIND,
    WORKER_KEYS,
    CheckTemplate,
    InspectPhotos,
    MakePortraits,
    PhotoRef,
    TrainSubject,
    arq_job_id,
    cancel_key,
)
from gpu_worker.contract.sealing import new_key
from gpu_worker.queues import connect
from tests.sealed import blobs_of_one_key, the_master_keys
from tests.valkey import ValkeyServer

AnyEvent = Started | Progress | Succeeded | Failed
WITHIN_S = 60.0  # what a test waits for comes soon, but a machine with much else to do takes its time
ENDLESS = "take 2000"  # a training that does not end before the test has done what it wants to do in it


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def paused(pids: Iterable[int]) -> Iterator[None]:
    """These processes do nothing meanwhile, however long it takes."""
    pids = tuple(pids)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGCONT)


async def ended(process: subprocess.Popen[bytes], within_s: float = WITHIN_S) -> int:
    """Its exit code, once it has ended."""
    return await asyncio.to_thread(process.wait, within_s)


class Bench:
    def __init__(self, server: ValkeyServer, blobs: BlobStore) -> None:
        """`blobs` as they are stored."""
        user_key, self.stored = new_key(), blobs
        self.server, self.blobs = server, blobs_of_one_key(blobs, user_key)
        self.user_key = the_master_keys().wrap(user_key)
        self.redis = connect(server.url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.redis.aclose(close_connection_pool=True)

    async def photos(self, order: str = "") -> tuple[PhotoRef, ...]:
        """Five photos in blobs; the first one holds an order for the stand-in engine."""
        user = secrets.token_hex(4)
        refs = tuple(PhotoRef(photo_id=f"photo{n}", key=f"users/{user}/photos/photo{n}.jpg") for n in range(5))
        for n, ref in enumerate(refs):
            await self.blobs.put(ref.key, f"DO {order}".encode() if order and n == 0 else b"picture")
        return refs

    async def inspect(self, order: str = "") -> InspectPhotos:
        return InspectPhotos(job_id=secrets.token_hex(6), photos=await self.photos(order))

    async def check_template(self) -> CheckTemplate:
        picture = io.BytesIO()
        Image.new("RGB", (64, 64)).save(picture, "JPEG")
        await self.blobs.put("templates/some.jpg", picture.getvalue())
        return CheckTemplate(job_id=secrets.token_hex(6), template_key="templates/some.jpg")

    async def train(self, order: str = "") -> TrainSubject:
        job_id = secrets.token_hex(6)
        return TrainSubject(
            job_id=job_id,
            subject_id="subject1",
            photos=await self.photos(order),
            output_prefix=f"users/u1/subjects/{job_id}",
            seed=1,
        )

    async def portraits(self, subject_prefix: str, count: int = 1, order: str = "") -> MakePortraits:
        """In a template that holds an order for the stand-in engine."""
        job_id = secrets.token_hex(6)
        await self.blobs.put(f"templates/{job_id}.jpg", f"DO {order}".encode() if order else b"picture")
        return MakePortraits(
            job_id=job_id,
            subject_id="subject1",
            subject_prefix=subject_prefix,
            template_key=f"templates/{job_id}.jpg",
            output_prefix=f"users/u1/jobs/{job_id}",
            count=count,
            seed=1,
        )

    async def reorder(self, job: TrainSubject, order: str) -> None:
        """Whoever fetches the photos from now on gets this order."""
        await self.blobs.put(job.photos[0].key, f"DO {order}".encode())

    async def kept_step(self, job: TrainSubject, at_least: int) -> int:
        """The step of the checkpoint that is in the store, once it is that late a one."""
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            for key in await self.blobs.keys(f"{job.output_prefix}/checkpoint-{job.job_id}"):
                with suppress(BlobNotFound):  # a newer one takes its place
                    names = json.loads(await self.blobs.get(key)) if key.endswith("/manifest.json") else {}
                    step = json.loads(await self.blobs.get(names["state.json"]))["step"] if names else -1
                    if step >= at_least:
                        return int(step)
            await asyncio.sleep(0.05)
        raise AssertionError(f"no checkpoint of step {at_least}")

    async def until_all_serve(self) -> None:
        """Until the only worker's engines for checks and for portraits are up; a training shows it itself."""
        for job in (await self.inspect(), await self.portraits("users/u1/subjects/none")):
            await self.enqueue(job)
            await self.outcome(job)
            await self.until_arq_forgot(job)

    async def trained_steps(self, job: TrainSubject, run: int = 1) -> int:
        """The last step that run `run` has told of."""
        events = await self.events(job)
        return max(event.done for event in events if isinstance(event, Progress) and event.run == run)

    async def enqueue(self, job: codec.AnyJob, attempt: int = 1) -> bool:
        """Whether arq took it: an id that it knows is refused."""
        job = job.model_copy(update={"attempt": attempt, "user_key": job.user_key or self.user_key})
        queued = await self.redis.enqueue_job(
            TASK_OF_KIND[job.kind],
            codec.job_payload(job),
            _job_id=arq_job_id(job.job_id, attempt),
            _queue_name=QUEUE_OF_KIND[job.kind],
        )
        return queued is not None

    async def cancel(self, job: codec.AnyJob) -> None:
        await self.redis.set(cancel_key(job.job_id), "1", ex=86400)

    async def events(self, job: codec.AnyJob | None = None) -> list[AnyEvent]:
        entries: list[tuple[bytes, dict[bytes, bytes]]] = await self.redis.xrange(EVENT_STREAM)
        events = [EVENT.validate_json(fields[EVENT_FIELD.encode()]) for _, fields in entries]
        return [event for event in events if job is None or event.job_id == job.job_id]

    async def outcome(self, job: codec.AnyJob, within_s: float = WITHIN_S) -> Any:
        """The Succeeded or Failed of a job."""
        return await self.until(job, lambda event: isinstance(event, Succeeded | Failed), within_s)

    async def outcomes(self, job: codec.AnyJob) -> list[AnyEvent]:
        return [event for event in await self.events(job) if isinstance(event, Succeeded | Failed)]

    async def until(self, job: codec.AnyJob, fits: Callable[[AnyEvent], bool], within_s: float = WITHIN_S) -> AnyEvent:
        """The first event of the job that fits."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            try:
                events = await self.events(job)
            except (RedisError, OSError):
                events = []
            for event in events:
                if fits(event):
                    return event
            await asyncio.sleep(0.05)
        raise AssertionError(f"no such event within {within_s} s; there were {await self.events(job)}")

    async def step(self, job: codec.AnyJob, done: int, run: int = 1, within_s: float = WITHIN_S) -> AnyEvent:
        """Waits until run `run` of a training has done that many steps."""
        return await self.until(
            job,
            lambda event: (
                isinstance(event, Progress) and event.stage == "train" and event.done >= done and event.run == run
            ),
            within_s,
        )

    async def until_arq_forgot(self, job: codec.AnyJob, within_s: float = WITHIN_S) -> None:
        """Until arq neither holds nor runs the job."""
        deadline = time.monotonic() + within_s
        while await self.redis.exists(f"arq:job:{arq_job_id(job.job_id, job.attempt)}"):
            if time.monotonic() > deadline:
                raise AssertionError("arq still holds the job")
            await asyncio.sleep(0.05)

    async def workers(self, count: int, without: int = 0, within_s: float = WITHIN_S) -> list[int]:
        """The process ids of the workers that say they live, once there are that many beside `without`."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            keys = [key async for key in self.redis.scan_iter(WORKER_KEYS)]
            pids = {int(pid) for key in keys if (pid := await self.redis.hget(key, "pid"))} - {without}
            if len(pids) >= count:
                return sorted(pids)
            await asyncio.sleep(0.05)
        raise AssertionError(f"fewer than {count} workers")
