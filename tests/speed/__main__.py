"""How fast a worker is, from queue to result, on random weights of the published size. Prints one JSON object.

A real Valkey, real worker processes, real blobs in a folder; seconds are those of the event stream. On idle devices it
measures the start, a training and portraits alone, portraits while a training runs and what they cost that training,
and at last the throughput of a queue full of both. With `--devices all` there is one worker per GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

from engine.bench.measures import told
from engine.profiles import MiniProfile
from engine.sample import sample_selfies
from gpu_worker.contract.codec import AnyJob
from gpu_worker.contract.events import EVENT, EVENT_FIELD, EVENT_STREAM
from gpu_worker.contract.folder_blobs import FolderBlobs
from gpu_worker.contract.jobs import MakePortraits, PhotoRef, TrainSubject
from gpu_worker.contract.sealing import MasterKeys, new_key
from tests.valkey import ValkeyServer
from tests.worker_bench import Bench

PHOTOS, PHOTO_SIDE = 10, 1024
LONGEST_S = 570.0  # of any job

Json = dict[str, Any]


@dataclass(frozen=True)
class Times:
    """Of one job, in seconds of the Redis server's clock."""

    queued: float
    started: float
    begun: float  # the engine's first word: the inputs are fetched
    ended: float
    engine: float  # seconds that it says it took from job to result; 0 of a training

    @property
    def wait(self) -> float:
        return self.started - self.queued

    @property
    def latency(self) -> float:
        return self.ended - self.queued

    @property
    def around(self) -> float:
        """What the worker takes before and after the engine."""
        return self.ended - self.started - self.engine


@dataclass(frozen=True)
class _Heard:
    event: Any
    at: float


class Speed:
    """What is asked of the workers, and when they answered."""

    def __init__(self, bench: Bench, template: bytes, photos: tuple[PhotoRef, ...]) -> None:
        self._bench, self._template, self._photos = bench, template, photos
        self._queued: dict[str, float] = {}
        self._heard: defaultdict[str, dict[str, _Heard]] = defaultdict(dict)  # of each job the first event of each kind
        self._last = ""

    async def training(self) -> TrainSubject:
        """Queued."""
        job_id = secrets.token_hex(6)
        job = TrainSubject(
            job_id=job_id,
            subject_id="subject1",
            photos=self._photos,
            output_prefix=f"users/u1/subjects/{job_id}",
            seed=1,
        )
        await self._put(job)
        return job

    async def portrait(self, subject_prefix: str) -> MakePortraits:
        """Queued."""
        job_id = secrets.token_hex(6)
        job = MakePortraits(
            job_id=job_id,
            subject_id="subject1",
            subject_prefix=subject_prefix,
            template_key="templates/speed.jpg",
            output_prefix=f"users/u1/jobs/{job_id}",
            seed=1,
        )
        await self._put(job)
        return job

    async def times(self, job: AnyJob) -> Times:
        """Waits for the job's end. Raises RuntimeError when it failed."""
        deadline = time.monotonic() + LONGEST_S
        while time.monotonic() < deadline:
            await self._hear()
            heard = self._heard[job.job_id]
            if failed := heard.get("failed"):
                raise RuntimeError(f"{job.kind} failed: {failed.event.reason}")
            if done := heard.get("succeeded"):
                engine = done.event.result.seconds.get("all", 0.0)
                return Times(self._queued[job.job_id], heard["started"].at, heard["progress"].at, done.at, engine)
            await asyncio.sleep(0.02)
        raise RuntimeError(f"{job.kind} did not end")

    async def _hear(self) -> None:
        """Takes in what is new on the stream. Reading all of it each time would keep the server busy."""
        for entry, fields in await self._bench.redis.xrange(EVENT_STREAM, min=f"({self._last}" if self._last else "-"):
            event, self._last = EVENT.validate_json(fields[EVENT_FIELD.encode()]), entry.decode()
            self._heard[event.job_id].setdefault(event.event, _Heard(event, int(entry.split(b"-")[0]) / 1000))

    async def subject_of(self, training: TrainSubject) -> str:
        prefix: str = (await self._bench.outcome(training, LONGEST_S)).result.files_prefix
        return prefix

    async def _put(self, job: AnyJob) -> None:
        seconds, microseconds = await self._bench.redis.time()
        self._queued[job.job_id] = seconds + microseconds / 1e6
        await self._bench.enqueue(job)


async def measured(speed: Speed, options: argparse.Namespace) -> Json:
    """Everything, in order."""
    alone = await speed.training()
    training_alone = await speed.times(alone)
    subject = await speed.subject_of(alone)
    first = await speed.times(await speed.portrait(subject))
    warm = await speed.times(await speed.training())
    result = told(
        "alone",
        {
            "start_s": round(training_alone.wait, 2),  # until the first job began
            "train_first_s": round(training_alone.ended - training_alone.started, 2),
            "train_s": round(warm.ended - warm.started, 2),
            "portrait_first_s": round(first.latency, 2),
        },
    )
    idle = [await speed.times(await speed.portrait(subject)) for _ in range(options.portraits)]
    result |= told("idle", {"portrait_idle": _summary(idle)})
    beside_job = await speed.training()
    beside = asyncio.create_task(speed.times(beside_job))
    await asyncio.sleep(options.into_training)
    during: list[Times] = []
    while not beside.done() and len(during) < options.portraits:
        during.append(await speed.times(await speed.portrait(subject)))
        await asyncio.sleep(options.pause)
    training_beside = await beside
    result |= told(
        "beside a training",
        {
            "portrait_during_training": _summary(during),
            "p95_during_over_idle": round(_p95(during) / _p95(idle), 2),
            "training_beside_portraits_s": round(training_beside.ended - training_beside.started, 2),
            "portraits_took_s": round(sum(t.ended - t.started for t in during), 2),
        },
    )
    return result | told("queue", {"throughput": await throughput(speed, subject, options)})


async def throughput(speed: Speed, subject: str, options: argparse.Namespace) -> Json:
    """A queue full of portraits beside trainings, shared by all workers."""
    jobs: list[AnyJob] = [await speed.training() for _ in range(options.queue_trainings)]
    portraits: list[AnyJob] = [await speed.portrait(subject) for _ in range(options.queue_portraits)]
    begin = time.monotonic()
    done = await asyncio.gather(*(speed.times(job) for job in portraits))
    portraits_s = time.monotonic() - begin
    await asyncio.gather(*(speed.times(job) for job in jobs))
    seconds = time.monotonic() - begin
    return {
        "portraits": len(portraits),
        "portraits_s": round(portraits_s, 2),
        "portraits_per_hour": round(3600 * len(portraits) / portraits_s) if portraits else 0,
        "portrait_p95_s": round(_p95(done), 2) if done else None,
        "trainings": len(jobs),
        "all_s": round(seconds, 2),
    }


def _summary(times: Sequence[Times]) -> Json:
    return {
        "jobs": len(times),
        "wait_median_s": round(median(t.wait for t in times), 3),
        "wait_most_s": round(max(t.wait for t in times), 3),
        "latency_median_s": round(median(t.latency for t in times), 3),
        "latency_p95_s": round(_p95(times), 3),
        "engine_median_s": round(median(t.engine for t in times), 3),
        "around_engine_median_s": round(median(t.around for t in times), 3),
        "of_it_fetching_median_s": round(median(t.begun - t.started for t in times), 3),
    }


def _p95(times: Sequence[Times]) -> float:
    return float(np.percentile([t.latency for t in times], 95))


async def inputs(bench: Bench) -> tuple[bytes, tuple[PhotoRef, ...]]:
    """Ten photos of the sample person as a phone would send them, and an ID picture as template."""
    refs = []
    photos = [*sample_selfies(), *sample_selfies(seed=100)][:PHOTOS]
    for number, rgb in enumerate(photos):
        rgb = cv2.resize(rgb, (PHOTO_SIDE, round(PHOTO_SIDE * rgb.shape[0] / rgb.shape[1])))
        ref = PhotoRef(photo_id=f"photo{number}", key=f"users/u1/photos/photo{number}.jpg")
        await bench.blobs.put(ref.key, _jpeg(rgb))
        refs.append(ref)
    template = _jpeg(MiniProfile("cpu").id_templates()[0].rgb)
    await bench.blobs.put("templates/speed.jpg", template)
    return template, tuple(refs)


def _jpeg(rgb: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1])


def _start(server: ValkeyServer, folder: Path, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    settings = {
        "redis_url": server.url,
        "blobs_url": str(folder / "blobs"),
        "work_dir": str(folder / "work"),
        "engine_entry": "tests.speed.engine",
        "profile": "sd15",
    }
    environment = {**os.environ, **{f"PORTRAIT_{name.upper()}": value for name, value in settings.items()}}
    environment |= {"SPEED_FACES": options.faces} | ({"SPEED_TINY": "1"} if options.tiny else {})
    environment |= {"SPEED_STEPS": str(options.steps)} if options.steps else {}
    return subprocess.Popen([sys.executable, "-m", "gpu_worker", "--devices", options.devices], env=environment)


async def run(options: argparse.Namespace) -> Json:
    with tempfile.TemporaryDirectory(prefix="sp") as name:
        folder = Path(name)
        server = ValkeyServer(folder)
        server.start()
        async with Bench(server, FolderBlobs(folder / "blobs")) as bench:
            speed = Speed(bench, *await inputs(bench))
            begin = time.monotonic()
            worker = _start(server, folder, options)
            try:
                await bench.workers(options.workers, within_s=120)
                result = await measured(speed, options)
            finally:
                worker.terminate()
                worker.wait(60)
            server.stop()
        about = {"devices": options.devices, "workers": options.workers, "faces": options.faces}
        return {**about, **result, "whole_s": time.monotonic() - begin}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.speed", description=__doc__)
    parser.add_argument("--devices", default="all", help="all, 0,1 or cpu, as for `python -m gpu_worker`")
    parser.add_argument("--workers", type=int, default=1, help="how many workers that makes")
    parser.add_argument(
        "--portraits", type=int, default=20, help="portraits one after the other, idle and in a training"
    )
    parser.add_argument("--into-training", type=float, default=10, help="seconds of a training before they begin")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two of them")
    parser.add_argument("--queue-portraits", type=int, default=40)
    parser.add_argument("--queue-trainings", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of each training; default: as many as its photos ask for")
    parser.add_argument(
        "--faces", choices=("dlib", "insightface"), default="dlib", help="as for `engine bench portrait`"
    )
    parser.add_argument("--tiny", action="store_true", help="narrow networks and short trainings: a rehearsal")
    options = parser.parse_args()
    os.environ.setdefault("PORTRAIT_MASTER_KEY", MasterKeys((new_key(),)).text())  # of the bench and of its workers
    print(json.dumps(asyncio.run(run(options)), indent=1))


if __name__ == "__main__":
    main()
