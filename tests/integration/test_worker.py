"""A worker process from queued job to events, on a real Valkey server, with a stand-in engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from gpu_worker.contract.events import Progress
from gpu_worker.contract.jobs import TRAIN_QUEUE, WORKER_KEYS
from gpu_worker.engine_messages import Expected
from tests.integration.conftest import Workers
from tests.stand_in_engine import NO_ROOM, STARTS, STEPS_PER_CHECKPOINT
from tests.worker_bench import ENDLESS, WITHIN_S, Bench, children_of, ended, is_alive


async def test_a_training_and_a_portrait_report_in_order_and_leave_their_files(bench: Bench, workers: Workers) -> None:
    worker = workers.start(bench.server)
    train = await bench.train("take 20")
    assert await bench.enqueue(train)
    trained = (await bench.outcome(train)).result
    events = await bench.events(train)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [events[0].event, events[-1].event] == ["started", "succeeded"]
    fractions = [event.fraction for event in events if isinstance(event, Progress)]
    assert fractions == sorted(fractions)
    previews = [event.preview_key for event in events if isinstance(event, Progress) and event.preview_key]
    assert previews
    assert (await bench.blobs.get(previews[0])).startswith(b"\xff\xd8")
    assert trained.files_prefix == f"{train.output_prefix}/1-1"
    assert await bench.blobs.exists(f"{trained.files_prefix}/lora.safetensors")
    await bench.until_arq_forgot(train)  # it is tidied up after it was reported
    assert not await bench.blobs.keys(f"{train.output_prefix}/checkpoint-{train.job_id}")

    portraits = await bench.portraits(trained.files_prefix, count=2)
    await bench.enqueue(portraits)
    made = (await bench.outcome(portraits)).result
    assert [await bench.blobs.exists(portrait.key) for portrait in made.portraits] == [True, True]

    assert [key async for key in bench.redis.scan_iter(WORKER_KEYS)]
    worker.send_signal(signal.SIGTERM)
    assert await ended(worker) == 0
    assert not [key async for key in bench.redis.scan_iter(WORKER_KEYS)]


async def test_a_job_folder_is_gone_after_its_job(bench: Bench, workers: Workers, tmp_path: Path) -> None:
    left_by_the_dead = tmp_path / "work" / "worker-dead" / "job"
    left_by_the_dead.mkdir(parents=True)
    workers.start(bench.server)
    for job in (await bench.inspect(), await bench.portraits("users/u1/subjects/none")):  # a success, a failure
        await bench.enqueue(job)
        await bench.outcome(job)
        await bench.until_arq_forgot(job)
    assert [path for path in (tmp_path / "work").rglob("*") if path.name != "checkpoints"] == [
        next((tmp_path / "work").iterdir())
    ]


async def test_checks_answer_while_a_training_runs(bench: Bench, workers: Workers) -> None:
    workers.start(bench.server)
    train = await bench.train(ENDLESS)
    await bench.enqueue(train)
    await bench.step(train, 1)
    inspect, template = await bench.inspect(), await bench.check_template()
    await bench.enqueue(inspect)
    await bench.enqueue(template)
    assert (await bench.outcome(inspect)).result.usable == 5
    assert len((await bench.outcome(template)).result.faces) == 1
    assert not await bench.outcomes(train)


async def test_a_portrait_during_a_training_starts_at_once_and_costs_it_only_its_own_seconds(
    bench: Bench, workers: Workers
) -> None:
    workers.start(bench.server)
    subject = await trained(bench)
    training = await bench.train(ENDLESS)
    await bench.enqueue(training)
    await bench.step(training, 3)
    portrait = await bench.portraits(subject, order="take 40")
    await bench.enqueue(portrait)
    await bench.outcome(portrait)
    events = await bench.events()
    drawing = [n for n, e in enumerate(events) if e.job_id == portrait.job_id and isinstance(e, Progress)]
    meanwhile = [e for e in events[drawing[0] : drawing[-1]] if e.job_id == training.job_id]
    assert len(meanwhile) <= 10  # of the 40 that it would have taken
    await bench.step(training, await bench.trained_steps(training) + 5)  # and goes on


async def test_with_one_engine_a_portrait_waits_for_the_running_training(bench: Bench, workers: Workers) -> None:
    worker = workers.start(bench.server, one_engine="true")
    subject = await trained(bench)
    assert len(children_of(worker.pid)) == 2  # one for checks
    training = await bench.train("take 20")
    await bench.enqueue(training)
    await bench.step(training, 3)
    portrait = await bench.portraits(subject)
    await bench.enqueue(portrait)
    await bench.outcome(portrait)
    order = [e.job_id for e in await bench.events() if e.event in ("started", "succeeded")]
    assert order[2:] == [training.job_id] * 2 + [portrait.job_id] * 2


async def trained(bench: Bench) -> str:
    """A finished subject's prefix."""
    job = await bench.train()
    await bench.enqueue(job)
    prefix: str = (await bench.outcome(job)).result.files_prefix
    return prefix


async def test_an_attempt_is_run_once_however_often_it_is_enqueued(bench: Bench, workers: Workers) -> None:
    job = await bench.inspect()
    assert await bench.enqueue(job)
    assert not await bench.enqueue(job)
    workers.start(bench.server)
    await bench.outcome(job)
    await bench.until_arq_forgot(job)
    assert not await bench.enqueue(job)
    assert len(await bench.outcomes(job)) == 1


async def test_a_finished_attempt_that_is_delivered_again_is_not_run_again(bench: Bench, workers: Workers) -> None:
    job = await bench.inspect()
    await bench.enqueue(job)
    workers.start(bench.server)
    await bench.outcome(job)
    await bench.until_arq_forgot(job)
    for key in [key async for key in bench.redis.scan_iter("arq:result:*")]:
        await bench.redis.delete(key)
    assert await bench.enqueue(job)
    await bench.until_arq_forgot(job)
    assert len(await bench.outcomes(job)) == 1


async def test_a_new_attempt_takes_the_job_from_the_one_that_runs(bench: Bench, workers: Workers) -> None:
    workers.start(bench.server)
    workers.start(bench.server)
    job = await bench.train(ENDLESS)
    await bench.enqueue(job)
    kept = await bench.kept_step(job, 5)
    await bench.reorder(job, "take 40")
    await bench.enqueue(job, attempt=2)
    succeeded = await bench.outcome(job)
    await bench.until_arq_forgot(job)
    assert (succeeded.attempt, succeeded.run) == (2, 1)
    assert len(await bench.outcomes(job)) == 1
    assert succeeded.result.steps <= 40 - kept


async def test_refusals_and_mistakes_of_the_engine_become_reasons(bench: Bench, workers: Workers) -> None:
    workers.start(bench.server)
    refused, failed = await bench.train("refuse"), await bench.train("fail")
    gone = await bench.portraits("users/u1/subjects/none")
    for job in (refused, failed, gone):
        await bench.enqueue(job)
    refusal, failure, missing = [await bench.outcome(job) for job in (refused, failed, gone)]
    assert (refusal.kind, refusal.reason) == ("user", "too_few_photos")
    assert {(photo.photo_id, photo.reason) for photo in refusal.photos} == {(f"photo{n}", "no_face") for n in range(5)}
    assert (failure.kind, failure.reason) == ("permanent", "internal")
    assert (missing.kind, missing.reason) == ("permanent", "input_missing")


async def test_a_payload_of_another_version_is_refused_by_name(bench: Bench, workers: Workers) -> None:
    workers.start(bench.server)
    job = await bench.inspect()
    payload = {**json.loads(job.model_dump_json()), "version": 99}
    await bench.redis.enqueue_job("inspect_photos", payload, _job_id=f"{job.job_id}:1", _queue_name="portrait:check")
    assert (await bench.outcome(job)).reason == "contract_version"


async def test_a_job_with_a_better_score_goes_before_one_queued_earlier(bench: Bench, workers: Workers) -> None:
    first, second = await bench.train(), await bench.train()
    await bench.enqueue(first)
    await bench.enqueue(second)
    await bench.redis.zadd(TRAIN_QUEUE, {f"{second.job_id}:1": 1_577_836_800_000.0})
    workers.start(bench.server)
    await bench.outcome(first)
    outcomes = [event.job_id for event in await bench.events() if event.event == "succeeded"]
    assert outcomes == [second.job_id, first.job_id]


async def test_a_queued_job_that_is_cancelled_never_starts(bench: Bench, workers: Workers) -> None:
    job = await bench.train()
    await bench.enqueue(job)
    await bench.cancel(job)
    workers.start(bench.server)
    outcome = await bench.outcome(job)
    assert (outcome.kind, outcome.reason) == ("cancelled", "cancelled")
    assert len(await bench.events(job)) == 1


async def test_a_running_job_that_is_cancelled_stops_soon_and_leaves_nothing(bench: Bench, workers: Workers) -> None:
    workers.start(bench.server)
    job = await bench.train(ENDLESS)
    await bench.enqueue(job)
    await bench.step(job, 7)
    begin = time.monotonic()
    await bench.cancel(job)
    assert (await bench.outcome(job)).reason == "cancelled"
    assert time.monotonic() - begin < 20  # half a second on a machine that does nothing else, of a hundred seconds left
    await bench.until_arq_forgot(job)
    assert [key for key in await bench.blobs.keys(job.output_prefix) if "-previews/" not in key] == []


async def test_a_job_that_does_not_hear_a_stop_is_killed(bench: Bench, workers: Workers) -> None:
    workers.start(bench.server, stop_grace_s="0.5", train_timeout_s="1", inspect_timeout_s="60")
    cancelled, late = await bench.inspect("hang"), await bench.train("hang")
    await bench.enqueue(cancelled)
    await bench.enqueue(late)
    await bench.until(cancelled, lambda event: event.event == "started")
    await bench.cancel(cancelled)
    assert (await bench.outcome(cancelled)).reason == "cancelled"
    assert (await bench.outcome(late)).reason == "timeout"
    after = await bench.inspect()
    await bench.enqueue(after)
    assert (await bench.outcome(after)).event == "succeeded"


async def test_a_crash_of_the_engine_is_tried_once_more_then_told(bench: Bench, workers: Workers) -> None:
    workers.start(bench.server)
    once, always = await bench.train("crash once"), await bench.train("crash")
    await bench.enqueue(once)
    await bench.enqueue(always)
    assert (await bench.outcome(once)).event == "succeeded"
    told = await bench.outcome(always)
    assert (told.kind, told.reason) == ("permanent", "engine_died")
    assert "-11" in told.detail


async def test_sigterm_gives_the_job_back_and_the_next_worker_goes_on(bench: Bench, workers: Workers) -> None:
    first = workers.start(bench.server, lease_s="3600")
    job = await bench.train(ENDLESS)
    await bench.enqueue(job)
    await bench.step(job, 12)
    first.send_signal(signal.SIGTERM)
    await ended(first, 30)  # two seconds on a machine that does nothing else, of a hundred that are left
    reached = await bench.trained_steps(job)
    await bench.reorder(job, f"take {reached + 10}")
    workers.start(bench.server, lease_s="3600")
    succeeded = await bench.outcome(job)
    assert succeeded.run == 2
    assert succeeded.result.steps <= 10 + STEPS_PER_CHECKPOINT  # it goes on from its last checkpoint
    assert len(await bench.outcomes(job)) == 1


async def test_a_worker_whose_engine_cannot_start_takes_no_jobs(bench: Bench, workers: Workers) -> None:
    job = await bench.train()
    await bench.enqueue(job)
    worker = workers.start(bench.server, engine_entry="tests.no_such_engine")
    assert await ended(worker) == 1
    assert not await bench.events(job)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [Expected(trainings=True), Expected(candidates=(2, 4))]),
        ({"one_engine": "1"}, [Expected(trainings=True, candidates=(2, 4))]),
        ({"small_gpu": "1"}, [Expected(trainings=True, candidates=(2, 4))]),
    ],
)
async def test_each_engine_is_told_for_what_to_make_ready(
    bench: Bench,
    workers: Workers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    expected: list[Expected],
) -> None:
    starts = tmp_path / "starts"
    starts.touch()
    monkeypatch.setenv(STARTS, str(starts))
    workers.start(bench.server, **settings, portraits_per_job="2")
    async with asyncio.timeout(WITHIN_S):
        while len(starts.read_text().splitlines()) < len(expected):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    job = await bench.train()
    await bench.enqueue(job)
    await bench.outcome(job)
    assert sorted(starts.read_text().splitlines()) == sorted(each.model_dump_json() for each in expected)


async def test_a_worker_that_does_not_fit_into_the_gpu_says_so_and_takes_no_jobs(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(NO_ROOM, "1")
    job = await bench.train()
    await bench.enqueue(job)
    assert await ended(workers.start(bench.server)) == 1
    assert "the engine cannot start: OutOfGpuMemory: the GPU's free memory is too little" in capfd.readouterr().err
    assert not await bench.events(job)


async def test_an_engine_that_hits_its_memory_limit_is_restarted_and_the_limit_told(
    bench: Bench, workers: Workers
) -> None:
    workers.start(bench.server, engine_memory_mib="1000")
    job = await bench.train("eat")
    await bench.enqueue(job)
    failed = await bench.outcome(job)
    assert (failed.kind, failed.reason) == ("transient", "out_of_memory")


async def test_one_worker_per_gpu_is_kept_running(bench: Bench, workers: Workers) -> None:
    supervisor = workers.start(bench.server, "--devices", "0,1")
    found = await bench.workers(2)
    os.kill(found[0], signal.SIGKILL)
    again = await bench.workers(2, without=found[0])
    job = await bench.inspect()
    await bench.enqueue(job)
    await bench.outcome(job)
    supervisor.send_signal(signal.SIGTERM)
    assert await ended(supervisor) == 0
    assert not [pid for pid in again if is_alive(pid)]
