"""What workers report: recorded once, in order, fenced; shown once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError

from bot import replies as r
from bot.delivery import Painter
from bot.domain import JobStatus, StoredJob
from bot.job_events import record_job_event
from bot.outbox import relay
from bot.replies import Choice
from gpu_worker.contract import events as e
from gpu_worker.contract.codec import AnyJob
from tests.bot_bench import BotBench, bot_bench, read_all
from tests.integration.postgres import database_url
from tests.valkey import ValkeyServer

__all__ = ["database_url"]


@pytest.fixture
async def bench(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    async with bot_bench(f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}", valkey.url, tmp_path) as made:
        yield made


async def a_portrait_job(bench: BotBench) -> AnyJob:
    """Taken off the queue, not begun."""
    await bench.train()
    await bench.press(Choice("use", bench.parts.templates.templates[0].template_id))
    await bench.parts.tasks.settle()
    await relay(bench.parts)
    job = await bench.worker.take()
    assert job is not None
    return job


async def stored(bench: BotBench, job: AnyJob) -> StoredJob:
    async with bench.parts.db.transaction() as store:
        found = await store.jobs.get(job.job_id)
    assert found is not None
    return found


def event(job: AnyJob, run: int, seq: int, *, attempt: int = 1) -> dict[str, Any]:
    return {"job_id": job.job_id, "attempt": attempt, "run": run, "seq": seq, "at": 0.0, "worker": "w"}


def progress(job: AnyJob, run: int, seq: int, fraction: float) -> e.Progress:
    return e.Progress(**event(job, run, seq), stage="fuse", done=1, total=2, fraction=fraction)


async def test_duplicates_and_stale_events_change_nothing(bench: BotBench) -> None:
    job = await a_portrait_job(bench)
    for news in (
        e.Started(**event(job, 1, 1)),
        progress(job, 1, 3, 0.5),
        progress(job, 1, 3, 0.5),  # delivered again
        progress(job, 1, 2, 0.2),  # overtaken
    ):
        await record_job_event(bench.parts, news)
    assert (await stored(bench, job)).fraction == 0.5
    await record_job_event(bench.parts, e.Started(**event(job, 2, 1)))
    assert (await stored(bench, job)).fraction == 0.0, "another worker has taken over and begins anew"
    late = await record_job_event(bench.parts, progress(job, 1, 9, 0.9))
    assert late is not None
    assert not late.is_news
    assert (await stored(bench, job)).fraction == 0.0, "the paused worker woke up too late"


async def test_a_final_state_is_final(bench: BotBench) -> None:
    job = await a_portrait_job(bench)
    await bench.worker.run(job)
    await bench.settle()
    failed = e.Failed(**event(job, 9, 9), kind="permanent", reason="engine_died")
    again = await record_job_event(bench.parts, failed)
    assert again is not None
    assert not again.is_news
    assert (await stored(bench, job)).status is JobStatus.SUCCEEDED
    assert bench.chat.sent(r.PortraitsReady) == 1


async def test_a_result_reported_twice_is_kept_and_shown_once(bench: BotBench) -> None:
    job = await a_portrait_job(bench)
    for _ in range(2):
        await bench.worker.report(e.Succeeded(**event(job, 1, 2), result=await bench.worker.result(job, 1)))
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 1
    async with bench.parts.db.transaction() as store:
        assert len(await store.library.portraits_of_job(job.job_id)) == 1


async def test_an_attempt_that_was_given_up_cannot_report_any_more(bench: BotBench) -> None:
    job = await a_portrait_job(bench)
    await bench.parts.queue.redis.flushall()
    await bench.bot.reconciler.tick()  # decides on attempt 2
    assert (await stored(bench, job)).attempt == 2
    result = await bench.worker.result(job, 1)
    await record_job_event(bench.parts, e.Succeeded(**event(job, 1, 5), result=result))
    assert not (await stored(bench, job)).status.is_final
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 1


async def test_what_was_read_and_not_recorded_is_read_again(bench: BotBench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await a_portrait_job(bench)
    await bench.worker.run(job)

    async def crash(*_: object) -> None:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr("bot.job_events.record_job_event", crash)
        with pytest.raises(RuntimeError):
            await read_all(bench.bot.events)
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 1
    assert await bench.parts.queue.redis.xlen(e.EVENT_STREAM) == 0, "nothing stays once SQL has it"


async def test_what_was_recorded_and_not_shown_is_shown_after_a_restart(
    bench: BotBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await a_portrait_job(bench)
    await bench.worker.run(job)
    with monkeypatch.context() as patch:
        patch.setattr(bench.parts.tasks, "begin", lambda what, work: work.close())
        await read_all(bench.bot.events)
    assert bench.chat.sent(r.PortraitsReady) == 0
    await bench.bot.reconciler.tick()
    assert bench.chat.sent(r.PortraitsReady) == 1


async def test_an_event_that_nobody_understands_holds_up_nothing(bench: BotBench) -> None:
    await bench.worker.queue.redis.xadd(e.EVENT_STREAM, {e.EVENT_FIELD: '{"event": "sang"}'})
    await bench.worker.queue.redis.xadd(e.EVENT_STREAM, {"other": "x"})
    await bench.train()


async def test_a_result_of_the_wrong_kind_is_a_visible_failure(bench: BotBench) -> None:
    job = await a_portrait_job(bench)
    wrong = e.InspectResult(photos=(), usable=0)
    await bench.worker.report(e.Succeeded(**event(job, 1, 2), result=wrong))
    await bench.settle()
    assert bench.chat.last(r.JobFailed).reason == "internal"


async def test_a_passing_failure_is_tried_again_before_anybody_hears_of_it(bench: BotBench) -> None:
    job = await a_portrait_job(bench)
    await bench.worker.report(e.Failed(**event(job, 1, 2), kind="transient", reason="out_of_memory"))
    await read_all(bench.bot.events)
    await bench.parts.tasks.settle()
    assert (await stored(bench, job)).attempt == 2
    assert bench.chat.sent(r.JobFailed) == 0
    from datetime import timedelta

    from bot.parts import utc_now

    bench.parts.clock = lambda: utc_now() + timedelta(minutes=1)
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 1


async def test_a_refused_training_names_the_photos(bench: BotBench) -> None:
    await bench.collect(6)
    photos = bench.chat.last(r.CollectingPhotos).photos
    verdicts = tuple(
        e.PhotoVerdict(photo_id=photo.photo_id, verdict="refused", reason="blurred") for photo in photos[:2]
    )
    bench.worker.fail_with = {"kind": "user", "reason": "too_few_photos", "photos": verdicts}
    await bench.push(r.CollectingPhotos, "start")
    await bench.settle()
    failed = bench.chat.last(r.JobFailed)
    assert [(photo.number, photo.reason) for photo in failed.photos] == [(1, "blurred"), (2, "blurred")]
    assert not failed.can_retry
    await bench.ask("train")
    assert len(bench.chat.last(r.CollectingPhotos).photos) == 6, "the photos are still there"


async def test_progress_is_shown_at_a_polite_rate(bench: BotBench) -> None:
    job = await a_portrait_job(bench)
    await bench.worker.report(e.Started(**event(job, 1, 1)))
    await read_all(bench.bot.events)
    now = 1000.0
    painter = Painter(bench.parts, bench.bot.delivery, lambda: now)
    before = len(bench.chat.said)
    for seq in range(2, 42):  # 20 s of events, twice a second
        await bench.worker.report(progress(job, 1, seq, seq / 50))
        await read_all(bench.bot.events)
        painter.note(await stored(bench, job))
        await painter.paint()
        now += 0.5
    edits = bench.chat.said[before:]
    assert 5 <= len(edits) <= 7
    assert all(how == "update" for how, _ in edits)
    fractions = [reply.job.fraction for _, reply in edits if isinstance(reply, r.Working)]
    assert fractions == sorted(fractions)


async def test_an_outage_after_the_recording_leaves_no_event_behind(
    bench: BotBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await a_portrait_job(bench)
    await bench.worker.run(job)
    redis = bench.parts.queue.redis
    with monkeypatch.context() as away:

        async def broken(*_: object) -> None:
            raise RedisConnectionError("it went away")

        away.setattr(type(redis), "xdel", broken)
        away.setattr(Pipeline, "execute", broken)
        with pytest.raises(RedisConnectionError):
            await read_all(bench.bot.events)
    await bench.settle()
    assert await redis.xlen(e.EVENT_STREAM) == 0
    assert bench.chat.sent(r.PortraitsReady) == 1
