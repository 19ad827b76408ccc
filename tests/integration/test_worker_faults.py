"""What must hold when workers, Redis and machines die or sleep in the middle of a job."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from redis.asyncio.client import Pipeline
from redis.exceptions import WatchError

from gpu_worker import queues
from gpu_worker.contract.events import Progress
from gpu_worker.contract.jobs import CHECK_QUEUE, claims_key, lease_key, worker_key
from gpu_worker.tasks import Delivery, JobRunner
from tests.integration.conftest import Workers
from tests.stand_in_engine import HELD, STEPS_PER_CHECKPOINT
from tests.worker_bench import ENDLESS, WITHIN_S, Bench, children_of, ended, is_alive, paused

LEASE_S = 2


async def worker_of(bench: Bench, job_id: str, processes: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """The process that holds the job's lease."""
    value: bytes = await bench.redis.get(lease_key(job_id))
    holder = value.decode().split(":")[2]
    busy = await bench.redis.hget(worker_key(holder), "pid")
    return next(process for process in processes if process.pid == int(busy))


async def engines_of(worker: subprocess.Popen[bytes]) -> list[int]:
    """Their processes, once there are all of them: for checks, trainings and portraits."""
    async with asyncio.timeout(WITHIN_S):
        while len(found := children_of(worker.pid)) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found


async def are_gone(pids: list[int]) -> None:
    """The kernel ends a dead worker's engines at once, and takes its time for it on a busy machine."""
    async with asyncio.timeout(WITHIN_S):
        while any(is_alive(pid) for pid in pids):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_killed_workers_training_goes_on_elsewhere_from_its_checkpoint(bench: Bench, workers: Workers) -> None:
    pair = [workers.start(bench.server), workers.start(bench.server)]
    job = await bench.train(ENDLESS)
    await bench.enqueue(job)
    await bench.step(job, 23)
    victim = await worker_of(bench, job.job_id, pair)
    engines = await engines_of(victim)
    with paused(engines):  # what it has reached has time to get to the store
        await bench.kept_step(job, (await bench.trained_steps(job) - 1) // STEPS_PER_CHECKPOINT * STEPS_PER_CHECKPOINT)
        victim.kill()
        killed_at = time.monotonic()
        await are_gone(engines)
    reached = await bench.trained_steps(job)
    await bench.reorder(job, f"take {reached + 20}")
    await bench.until(job, lambda event: event.run == 2)
    assert time.monotonic() - killed_at < 20  # the lease and a look at the queue; arq alone would let it wait for hours
    succeeded = await bench.outcome(job)
    await bench.until_arq_forgot(job)
    assert len(await bench.outcomes(job)) == 1
    resumed_at = json.loads(await bench.blobs.get(f"{succeeded.result.files_prefix}/subject.json"))["resumed_at"]
    assert reached - resumed_at <= 2 * STEPS_PER_CHECKPOINT  # one interval, and a checkpoint on its way to the store


async def test_a_worker_that_wakes_up_after_its_lease_leaves_the_job_alone(bench: Bench, workers: Workers) -> None:
    pair = [workers.start(bench.server), workers.start(bench.server)]
    job = await bench.train(ENDLESS)
    await bench.enqueue(job)
    await bench.step(job, 8)
    sleeper = await worker_of(bench, job.job_id, pair)
    sleeper.send_signal(signal.SIGSTOP)
    await bench.reorder(job, "take 60")
    await bench.step(job, 12, run=2)
    sleeper.send_signal(signal.SIGCONT)
    succeeded = await bench.outcome(job)
    assert succeeded.run == 2
    await bench.until_arq_forgot(job)
    await asyncio.sleep(0.5)
    assert len(await bench.outcomes(job)) == 1
    first_of_second_run = next(i for i, event in enumerate(await bench.events(job)) if event.run == 2)
    assert {event.run for event in (await bench.events(job))[first_of_second_run:]} == {2}
    after = await bench.train()
    await bench.enqueue(after)
    assert (await bench.outcome(after)).event == "succeeded"
    assert sleeper.poll() is None


async def test_a_job_that_kills_worker_after_worker_is_given_up(bench: Bench, workers: Workers) -> None:
    job = await bench.train(ENDLESS)
    await bench.enqueue(job)
    for run in (1, 2):
        worker = workers.start(bench.server, lease_s="0.6", max_deaths="2")
        await bench.step(job, 1, run=run)
        worker.kill()
    workers.start(bench.server, lease_s="0.6", max_deaths="2")
    failed = await bench.outcome(job)
    assert (failed.kind, failed.reason) == ("permanent", "worker_died")
    after = await bench.train()
    await bench.enqueue(after)
    assert (await bench.outcome(after)).event == "succeeded"


async def test_an_outage_of_redis_longer_than_the_lease_interrupts_no_training(
    lasting_bench: Bench, workers: Workers
) -> None:
    worker = workers.start(lasting_bench.server)
    job = await lasting_bench.train("take 90")
    await lasting_bench.enqueue(job)
    await lasting_bench.step(job, 5)
    lasting_bench.server.kill()
    await asyncio.sleep(LEASE_S + 1)
    lasting_bench.server.start()
    succeeded = await lasting_bench.outcome(job)
    assert (succeeded.run, succeeded.result.steps) == (1, 90)
    await lasting_bench.until_arq_forgot(job)
    after = await lasting_bench.train()
    await lasting_bench.enqueue(after)
    assert (await lasting_bench.outcome(after)).event == "succeeded"
    assert worker.poll() is None


async def until_stored(bench: Bench, key: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await bench.blobs.exists(key):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_training_that_ends_while_redis_is_away_is_reported_once(
    lasting_bench: Bench, workers: Workers
) -> None:
    workers.start(lasting_bench.server)
    job = await lasting_bench.train("take 50")
    await lasting_bench.enqueue(job)
    await lasting_bench.step(job, 5)
    lasting_bench.server.kill()
    await until_stored(lasting_bench, f"{job.output_prefix}/result-{job.job_id}.json")
    await asyncio.sleep(1)
    lasting_bench.server.start()
    await lasting_bench.outcome(job)
    await lasting_bench.until_arq_forgot(job)
    assert len(await lasting_bench.outcomes(job)) == 1
    assert (await lasting_bench.outcome(job)).run == 1


async def test_a_redis_that_forgot_everything_still_gets_the_outcome(bench: Bench, workers: Workers) -> None:
    workers.start(bench.server)
    job = await bench.train("take 100")
    await bench.enqueue(job)
    await bench.step(job, 5)
    await bench.redis.flushdb()
    await bench.until(job, lambda event: isinstance(event, Progress))
    await bench.enqueue(job)  # as a bot that finds its job gone would
    succeeded = await bench.outcome(job)
    assert succeeded.run == 1
    await bench.until_arq_forgot(job)
    assert len(await bench.outcomes(job)) == 1


async def test_no_engine_process_outlives_a_stopped_or_killed_worker(bench: Bench, workers: Workers) -> None:
    for how in (signal.SIGKILL, signal.SIGTERM):
        worker = workers.start(bench.server)
        job = await bench.inspect()
        await bench.enqueue(job)
        await bench.outcome(job)
        engines = await engines_of(worker)
        assert len(engines) == 3
        worker.send_signal(how)
        await ended(worker)
        await are_gone(engines)


async def test_a_killed_engine_is_replaced_and_its_training_goes_on(bench: Bench, workers: Workers) -> None:
    worker = workers.start(bench.server)
    await bench.until_all_serve()  # an engine that is killed while it starts ends its worker
    job = await bench.train("take 100")
    await bench.enqueue(job)
    await bench.step(job, 12)
    engines = children_of(worker.pid)
    with paused(engines):
        reached = await bench.trained_steps(job)
        for pid in engines:
            os.kill(pid, signal.SIGKILL)
    succeeded = await bench.outcome(job)
    resumed_at = 100 - succeeded.result.steps
    assert succeeded.run == 1
    assert reached - STEPS_PER_CHECKPOINT <= resumed_at < 100, "it goes on from its last checkpoint"


async def test_an_engine_that_died_is_warm_again_before_anybody_asks(
    bench: Bench, workers: Workers, unused_tcp_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = tmp_path / "held"
    monkeypatch.setenv(HELD, str(held))
    worker = workers.start(bench.server, health_port=str(unused_tcp_port))
    page, seen = f"http://127.0.0.1:{unused_tcp_port}/readyz", list[int]()

    async def look(until: int) -> None:
        async with asyncio.timeout(WITHIN_S), aiohttp.ClientSession() as client:
            while until not in seen[-1:]:
                with suppress(aiohttp.ClientError):
                    async with client.get(page) as answer:
                        seen.append(answer.status)
                await asyncio.sleep(0.02)

    await look(until=200)
    before = children_of(worker.pid)
    held.touch()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await look(until=503)
    held.unlink()
    await look(until=200)
    now = children_of(worker.pid)
    assert len(now) == 3
    assert not set(now) & set(before)
    job = await bench.inspect()
    await bench.enqueue(job)
    assert (await bench.outcome(job)).event == "succeeded"
    assert children_of(worker.pid) == now


async def test_what_is_kept_in_redis_of_a_finished_job_is_small_and_ends(bench: Bench, workers: Workers) -> None:
    workers.start(bench.server)
    job = await bench.inspect()
    await bench.enqueue(job)
    await bench.outcome(job)
    await bench.until_arq_forgot(job)
    async with asyncio.timeout(WITHIN_S):
        while await bench.redis.exists(lease_key(job.job_id)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    kept = [key async for key in bench.redis.scan_iter(f"*{job.job_id}*")]
    assert sorted(kept) == sorted([claims_key(job.job_id).encode(), f"arq:result:{job.job_id}:1".encode()])
    assert all([await bench.redis.ttl(key) > 0 for key in kept])


async def test_a_worker_that_wakes_up_after_its_job_was_forgotten_writes_nothing(
    bench: Bench, workers: Workers
) -> None:
    worker = workers.start(bench.server)
    job = await bench.train(ENDLESS)
    await bench.enqueue(job)
    await bench.step(job, 8)
    engines = await engines_of(worker)
    with paused(engines):  # a write that is under way at this very moment would be ended later, and swept later still
        await bench.kept_step(job, (await bench.trained_steps(job) - 1) // STEPS_PER_CHECKPOINT * STEPS_PER_CHECKPOINT)
        await asyncio.sleep(0.5)
        worker.send_signal(signal.SIGSTOP)
    await asyncio.sleep(LEASE_S + 0.5)
    forgotten = [key async for key in bench.redis.scan_iter(f"*{job.job_id}*")]  # as the bot does on /forget
    await bench.redis.delete("portrait:render", *forgotten)
    await bench.blobs.delete_prefix("users")
    before = len(await bench.events(job))
    worker.send_signal(signal.SIGCONT)
    await asyncio.sleep(2)
    assert await bench.blobs.keys("users") == []
    assert len(await bench.events(job)) == before
    after = await bench.inspect()
    await bench.enqueue(after)
    assert (await bench.outcome(after)).event == "succeeded"


async def test_a_worker_ends_soon_although_redis_is_away(lasting_bench: Bench, workers: Workers) -> None:
    worker = workers.start(lasting_bench.server)
    job = await lasting_bench.train("take 60")
    await lasting_bench.enqueue(job)
    await lasting_bench.step(job, 3)
    lasting_bench.server.kill()
    begin = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    await ended(worker)
    assert time.monotonic() - begin < 40  # seven seconds on a machine that does nothing else; Redis stays away for ever
    lasting_bench.server.start()
    workers.start(lasting_bench.server)
    assert (await lasting_bench.outcome(job)).event == "succeeded"


async def test_an_outage_while_arq_looks_at_a_job_does_not_stop_the_queue(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Runner:
        async def deliver(self, payload: Any, delivery_id: str, in_progress_key: str) -> Delivery:
            done.set()
            return Delivery.FINISHED

    outages, zscore, done, stopping = 3, Pipeline.zscore, asyncio.Event(), asyncio.Event()

    async def away_at_first(pipe: Pipeline, *arguments: Any) -> Any:
        nonlocal outages
        if outages:
            outages -= 1
            raise WatchError("A ConnectionError occurred on while watching one or more keys")
        return await zscore(pipe, *arguments)

    monkeypatch.setattr(Pipeline, "zscore", away_at_first)
    job = await bench.inspect()
    await bench.enqueue(job)
    turn = asyncio.Semaphore(1)
    serving = asyncio.create_task(
        queues.serve_queue(CHECK_QUEUE, cast(JobRunner, Runner()), turn, bench.redis, LEASE_S, stopping)
    )
    await asyncio.wait_for(done.wait(), WITHIN_S)
    stopping.set()
    await asyncio.wait_for(serving, WITHIN_S)
    assert not turn.locked()


async def test_a_result_that_redis_forgot_is_reported_again_and_not_made_again(bench: Bench, workers: Workers) -> None:
    workers.start(bench.server)
    job = await bench.train()
    await bench.enqueue(job)
    first = await bench.outcome(job)
    await bench.until_arq_forgot(job)
    await bench.redis.flushdb()
    await bench.enqueue(job, attempt=2)  # as a bot that finds its job gone would
    again = await bench.outcome(job)
    assert (again.attempt, again.result) == (2, first.result)
    assert not [event for event in await bench.events(job) if isinstance(event, Progress)], "no step is done twice"
    assert await bench.blobs.exists(f"{first.result.files_prefix}/lora.safetensors")


async def test_a_worker_killed_between_storing_and_reporting_a_result_makes_nobody_wait_for_it_again(
    lasting_bench: Bench, workers: Workers
) -> None:
    worker = workers.start(lasting_bench.server)
    job = await lasting_bench.train("take 50")
    await lasting_bench.enqueue(job)
    await lasting_bench.step(job, 5)
    lasting_bench.server.kill()
    await until_stored(lasting_bench, f"{job.output_prefix}/result-{job.job_id}.json")
    worker.kill()
    lasting_bench.server.start()
    workers.start(lasting_bench.server)
    succeeded = await lasting_bench.outcome(job)
    assert succeeded.run == 2
    assert len(await lasting_bench.outcomes(job)) == 1
    assert await lasting_bench.blobs.exists(f"{succeeded.result.files_prefix}/lora.safetensors")
    assert not [e for e in await lasting_bench.events(job) if isinstance(e, Progress) and e.run == 2]
