"""From SQL to arq: at least once, each attempt once, and nobody is held up by somebody else's trouble."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from bot import replies as r
from bot.dialogue import Asked
from bot.domain import JobStatus, NewJob, StoredJob, new_id, queue_score
from bot.outbox import relay
from bot.parts import utc_now
from bot.replies import Choice
from bot.texts import say
from gpu_worker.contract.codec import job_payload
from gpu_worker.contract.jobs import CHECK_QUEUE, PORTRAIT_QUEUE, CheckTemplate, arq_job_id, worker_key
from tests.bot_bench import ANNA, BEN, BotBench, bot_bench
from tests.valkey import ValkeyServer


@pytest.fixture
async def bench(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    async with bot_bench(f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}", valkey.url, tmp_path) as made:
        yield made


async def order_check(bench: BotBench) -> str:
    job = CheckTemplate(job_id=new_id(), template_key="templates/x.jpg")
    async with bench.parts.db.transaction() as store:
        person = await store.people.meet(ANNA, "en", utc_now())
        score = queue_score(utc_now(), 0)
        new = NewJob(job.job_id, person.user_id, "check_template", ANNA, job_payload(job), score)
        await store.jobs.add(new, utc_now())
    return job.job_id


async def queued(bench: BotBench, queue: str = CHECK_QUEUE) -> list[str]:
    return [arq_id.decode() for arq_id in await bench.parts.queue.redis.zrange(queue, 0, -1)]


async def test_a_decided_job_reaches_its_queue(bench: BotBench) -> None:
    job_id = await order_check(bench)
    assert await relay(bench.parts) == 1
    assert await relay(bench.parts) == 0
    assert await queued(bench) == [arq_job_id(job_id, 1)]
    job = await bench.worker.take()
    assert job is not None
    assert (job.job_id, job.attempt) == (job_id, 1)


async def test_a_crash_between_queueing_and_noting_it_queues_nothing_twice(
    bench: BotBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await order_check(bench)

    async def crash(*_: object) -> None:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr("bot.db.jobs.Jobs.parcel_sent", crash)
        with pytest.raises(RuntimeError):
            await relay(bench.parts)
    assert await relay(bench.parts) == 1
    assert await queued(bench) == [arq_job_id(job_id, 1)]


async def test_one_job_that_cannot_be_queued_holds_up_no_other(
    bench: BotBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = await order_check(bench), await order_check(bench)
    put = bench.parts.queue.put

    async def choosy(job: StoredJob, attempt: int, user_key: str) -> None:
        if job.job_id == bad:
            raise RedisConnectionError("away")
        await put(job, attempt, user_key)

    with monkeypatch.context() as patch:
        patch.setattr(bench.parts.queue, "put", choosy)
        assert await relay(bench.parts) == 1
    assert await queued(bench) == [arq_job_id(good, 1)]
    assert await relay(bench.parts) == 0, "it waits a moment"
    bench.parts.clock = lambda: utc_now() + timedelta(minutes=2)
    assert await relay(bench.parts) == 1
    assert arq_job_id(bad, 1) in await queued(bench)


async def test_a_job_cancelled_before_it_left_is_never_queued(bench: BotBench) -> None:
    job_id = await order_check(bench)
    async with bench.parts.db.transaction() as store:
        await store.jobs.change(job_id, status=JobStatus.CANCELLED)
    await relay(bench.parts)
    assert await queued(bench) == []


async def test_the_queue_is_fair_and_portraits_do_not_wait_behind_trainings(bench: BotBench) -> None:
    for who in (ANNA, BEN):
        await bench.train(who)
    bench.worker.done.clear()
    await bench.collect(who=BEN)
    await bench.push(r.CollectingPhotos, "start", BEN)
    bench.worker.done.clear()
    template = Choice("use", bench.parts.templates.templates[0].template_id)
    for who in (ANNA, ANNA, ANNA, BEN):
        await bench.press(template, who)
    await relay(bench.parts)
    assert len(await queued(bench, PORTRAIT_QUEUE)) == 4
    await bench.worker.work()
    order = [(job.kind, owner_of(job)) for job in bench.worker.done]
    anna, ben = order[0][1], order[-1][1]
    assert order == [
        ("portrait", anna),
        ("portrait", ben),
        ("portrait", anna),
        ("portrait", anna),
        ("train", ben),
    ], "Anna's second portrait was ordered before Ben's first, but she has one open already"


def owner_of(job: Any) -> str:
    owner: str = job.output_prefix.split("/")[1]
    return owner


async def test_redis_may_forget_everything(bench: BotBench) -> None:
    await bench.collect()
    await bench.push(r.CollectingPhotos, "start")
    await bench.parts.tasks.settle()
    await relay(bench.parts)
    await bench.parts.queue.redis.flushall()
    await bench.bot.reconciler.tick()
    await bench.settle()
    assert bench.chat.sent(r.SubjectReady) == 1
    assert bench.worker.done[-1].attempt == 2


async def test_a_job_that_is_lost_again_and_again_fails_visibly(bench: BotBench) -> None:
    await bench.collect()
    await bench.push(r.CollectingPhotos, "start")
    await bench.parts.tasks.settle()
    for _ in range(bench.parts.settings.job_attempts):
        await relay(bench.parts)
        await bench.parts.queue.redis.flushall()
        await bench.bot.reconciler.tick()
    await bench.bot.reconciler.tick()
    failed = bench.chat.last(r.JobFailed)
    assert (failed.kind, failed.reason, failed.can_retry) == ("train", "lost", True)


async def test_a_job_that_runs_or_waits_is_left_alone(bench: BotBench) -> None:
    await bench.train()
    await bench.press(Choice("use", bench.parts.templates.templates[0].template_id))
    await relay(bench.parts)
    await bench.bot.reconciler.tick()
    job = await bench.worker.take()
    assert job is not None
    await bench.parts.queue.redis.set(f"portrait:lease:{job.job_id}", "1:1:w", ex=30)
    await bench.bot.reconciler.tick()
    await bench.parts.queue.redis.delete(f"portrait:lease:{job.job_id}")
    await bench.worker.run(job)  # its events are on the stream, nobody has read them
    await bench.bot.reconciler.tick()
    async with bench.parts.db.transaction() as store:
        stored = await store.jobs.get(job.job_id)
    assert stored is not None
    assert stored.attempt == 1
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 1


async def test_who_waits_for_workers_that_are_only_starting_is_told_so(bench: BotBench) -> None:
    await bench.train()
    await bench.press(Choice("use", bench.parts.templates.templates[0].template_id))
    seen = []
    for worker, state in (("w1", "loading"), ("w2", "loading"), ("w2", "ready")):
        await bench.parts.queue.redis.hset(worker_key(worker), mapping={"state": state, "one_engine": "0"})
        await bench.bot.reconciler.tick()
        await bench.ask("queue")
        answer = bench.chat.last(r.QueueStatus)
        place = answer.jobs[0].place
        assert place is not None
        assert place.is_served
        assert place.is_starting == ("getting ready" in str(say(answer, "en")))
        seen.append(place.is_starting)
    assert seen == [True, True, False]


async def test_a_collection_that_nobody_checks_is_checked(bench: BotBench) -> None:
    await bench.collect()
    async with bench.parts.db.transaction() as store:
        person = await store.people.find(ANNA)
        assert person is not None
        here = await store.collections.open_one(person.user_id)
        assert here is not None
        await store.collections.add_photo(here.session_id, new_id(), utc_now())
    bench.parts.clock = lambda: utc_now() + timedelta(seconds=30)
    await bench.bot.reconciler.tick()
    await bench.settle()
    assert not bench.chat.last(r.CollectingPhotos).is_checking


async def test_a_failed_check_says_so_once_and_can_be_repeated(bench: BotBench) -> None:
    bench.worker.fail_with = {"kind": "permanent", "reason": "engine_died"}
    await bench.collect()
    told = bench.chat.sent(r.JobFailed)
    assert told
    bench.parts.clock = lambda: utc_now() + timedelta(seconds=30)
    for _ in range(3):
        await bench.bot.reconciler.tick()
        await bench.settle()
    assert bench.chat.sent(r.JobFailed) == told, "the same photos are not tried again and again"
    assert bench.chat.last(r.JobFailed).kind == "inspect"
    bench.worker.fail_with = None
    await bench.push(r.JobFailed, "retry")
    await bench.settle()
    assert bench.chat.last(r.CollectingPhotos).can_start


async def test_a_check_that_failed_because_a_photo_was_removed_meanwhile_says_nothing(bench: BotBench) -> None:
    await bench.collect()
    await bench.photos(1, first=20)
    await bench.parts.tasks.settle()
    await relay(bench.parts)
    overtaken = await bench.worker.take()
    assert overtaken is not None
    await bench.push(r.CollectingPhotos, "remove_last")
    bench.worker.fail_with = {"kind": "permanent", "reason": "input_missing"}
    await bench.worker.run(overtaken)
    bench.worker.fail_with = None
    await bench.settle()
    await bench.bot.reconciler.tick()
    assert bench.chat.sent(r.JobFailed) == 0
    bench.parts.clock = lambda: utc_now() + timedelta(seconds=30)
    await bench.bot.reconciler.tick()
    await bench.settle()
    assert bench.chat.last(r.CollectingPhotos).can_start


async def test_an_unanswered_person_is_answered_after_a_restart(bench: BotBench) -> None:
    chat = bench.parts.chats.pop("telegram")
    await bench.hear(Asked("help"))
    assert not bench.chat.shown
    bench.bot.register("telegram", chat)
    await bench.bot.reconciler.tick()
    assert bench.chat.last(r.Help)
