"""Whole conversations with the core: real database, real Valkey, a chat and a worker that stand in."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import func, select

from bot import replies as r
from bot.chat import ChatError
from bot.db import tables as t
from bot.db.database import open_engine
from bot.dialogue import CONSENT_VERSION, Asked, PictureNotTaken, SentPicture
from bot.domain import Address, JobStatus
from bot.outbox import relay
from bot.parts import utc_now
from bot.replies import Choice, Reply
from gpu_worker.contract import events as e
from gpu_worker.contract.jobs import cancel_key, lease_key
from tests.bot_bench import ANNA, BEN, BotBench, bot_bench
from tests.fakes import jpeg
from tests.integration.postgres import database_url
from tests.valkey import ValkeyServer

__all__ = ["database_url"]


@pytest.fixture
async def bench(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    async with bot_bench(f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}", valkey.url, tmp_path) as made:
        yield made


@pytest.fixture
async def patient_bench(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    """What is sent in a row is one album to it, however slow the machine is."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}"
    async with bot_bench(url, valkey.url, tmp_path, quiet_s=3) as made:
        yield made


@pytest.fixture
async def any_bench(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    async with bot_bench(database_url, valkey.url, tmp_path) as made:
        yield made


async def rows(bench: BotBench) -> dict[str, int]:
    """How many rows every table has."""
    engine = open_engine(bench.parts.settings.database)
    async with engine.connect() as connection:
        counts = {
            table.name: (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in t.Base.metadata.sorted_tables
        }
    await engine.dispose()
    return {name: count for name, count in counts.items() if count}


async def test_selfies_become_a_portrait(any_bench: BotBench) -> None:
    bench, chat = any_bench, any_bench.chat
    await bench.ask("start")
    assert chat.last(r.Welcome) == r.Welcome(has_subject=False)
    await bench.collect(6)
    status = chat.last(r.CollectingPhotos)
    assert [photo.verdict for photo in status.photos] == ["ok"] * 6
    assert status.can_start
    assert chat.sent(r.CollectingPhotos) == 1, "one status message, edited"
    await bench.push(r.CollectingPhotos, "start")
    assert chat.last(r.Working).job.status == "queued"
    await bench.settle()
    assert chat.last(r.SubjectReady).subject.likeness == 0.6
    await bench.push(r.SubjectReady, "gallery")
    gallery = chat.last(r.Gallery)
    assert gallery.can_use
    await bench.push(r.Gallery, "use")
    await bench.settle()
    portraits = chat.last(r.PortraitsReady).portraits
    assert portraits[0].template == gallery.template
    assert await bench.parts.blobs.exists(portraits[0].key)
    assert chat.sent(r.SubjectReady) == chat.sent(r.PortraitsReady) == 1
    assert {reply.job.status for reply in chat.shown.values() if isinstance(reply, r.Working)} == {JobStatus.SUCCEEDED}


async def test_selfies_are_gone_after_the_training(bench: BotBench) -> None:
    await bench.train()
    keys = await bench.parts.blobs.keys("users")
    assert not [key for key in keys if "/photos/" in key]
    assert [key for key in keys if key.endswith("lora.safetensors")]


async def test_nothing_is_collected_without_consent(patient_bench: BotBench) -> None:
    bench = patient_bench
    await bench.ask("train")
    await bench.photos(3)
    await bench.settle()
    assert bench.chat.sent(r.AskConsent) == 2, "an album is answered with the question, once"
    assert not await bench.parts.blobs.keys("users")
    await bench.push(r.AskConsent, "decline")
    assert bench.chat.last(r.ConsentDeclined)
    await bench.photos(1)
    await bench.settle()
    assert bench.chat.last(r.NoCollection)
    assert not await bench.parts.blobs.keys("users")


async def test_refused_photos_are_named_and_not_trained_on(bench: BotBench) -> None:
    bench.worker.refuse = {2: "several_people", 7: "not_same_person"}
    await bench.collect(7)
    status = bench.chat.last(r.CollectingPhotos)
    assert {p.number: p.reason for p in status.photos if p.verdict == "refused"} == {
        2: "several_people",
        7: "not_same_person",
    }
    assert status.can_start
    bench.worker.refuse = {}
    await bench.push(r.CollectingPhotos, "start")
    await bench.settle()
    trained = bench.worker.done[-1]
    refused = {p.photo_id for p in status.photos if p.verdict == "refused"}
    assert len(trained.photos) == 5
    assert not refused & {photo.photo_id for photo in trained.photos}


async def test_the_refused_can_be_removed_without_another_check(bench: BotBench) -> None:
    bench.worker.refuse = {1: "blurred"}
    await bench.collect(6)
    checks = len(bench.worker.done)
    await bench.push(r.CollectingPhotos, "remove_refused")
    await bench.settle()
    status = bench.chat.last(r.CollectingPhotos)
    assert [photo.number for photo in status.photos] == [2, 3, 4, 5, 6], "the numbers stay those the person knows"
    assert status.can_start
    assert len(bench.worker.done) == checks
    assert len(await bench.parts.blobs.keys("users")) == 5


async def test_four_photos_are_not_enough(bench: BotBench) -> None:
    await bench.collect(4)
    status = bench.chat.last(r.CollectingPhotos)
    assert not status.can_start
    await bench.press(Choice("start", status.session_id))
    assert bench.chat.last(r.NotEnoughPhotos) == r.NotEnoughPhotos(4, 5)


async def test_the_21st_photo_is_not_taken_and_costs_none_of_the_others(bench: BotBench) -> None:
    await bench.collect(21)
    assert bench.chat.last(r.PhotoNotTaken) == r.PhotoNotTaken("too_many_photos")
    status = bench.chat.last(r.CollectingPhotos)
    assert len(status.photos) == 20
    assert status.can_start
    assert len([key for key in await bench.parts.blobs.keys("users") if "/photos/" in key]) == 20


async def test_bad_files_get_their_own_reason_and_cost_no_other_photo(patient_bench: BotBench) -> None:
    bench = patient_bench
    frames = [Image.new("RGB", (40, 40), (i * 50, 0, 0)) for i in range(3)]
    gif = io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    await bench.consent()
    await bench.photos(3)
    for data in (jpeg(9)[:3000], b"not a picture at all", gif.getvalue()):
        await bench.hear(SentPicture(data))
    await bench.hear(PictureNotTaken("too_big"))
    await bench.hear(PictureNotTaken("too_big"))
    await bench.photos(2, first=3)
    await bench.settle()
    told = {reply.reason: reply.count for reply in bench.chat.shown.values() if isinstance(reply, r.PhotoNotTaken)}
    assert told == {"unreadable": 1, "not_a_picture": 1, "animated": 1, "too_big": 2}
    assert len(bench.chat.last(r.CollectingPhotos).photos) == 5


async def test_portrait_before_training_says_what_to_do(bench: BotBench) -> None:
    await bench.ask("portrait")
    assert bench.chat.last(r.NoSubject) == r.NoSubject(is_training=False)
    await bench.collect()
    await bench.push(r.CollectingPhotos, "start")
    await bench.ask("portrait")
    assert bench.chat.last(r.NoSubject) == r.NoSubject(is_training=True)


async def test_the_same_event_twice_counts_once(bench: BotBench) -> None:
    await bench.consent()
    for _ in range(2):
        await bench.hear(SentPicture(jpeg(1)), event_id="same")
    await bench.settle()
    assert len(bench.chat.last(r.CollectingPhotos).photos) == 1


async def test_an_answer_that_the_chat_refused_is_given_later(bench: BotBench) -> None:
    bench.chat.fail = [ChatError("slow down", retry_after_s=1)]
    await bench.ask("help")
    assert not bench.chat.shown
    await bench.bot.reconciler.tick()
    assert bench.chat.last(r.Help)
    await bench.bot.reconciler.tick()
    assert bench.chat.sent(r.Help) == 1


async def test_who_blocked_the_bot_is_left_alone_until_they_speak(bench: BotBench) -> None:
    await bench.collect()
    await bench.push(r.CollectingPhotos, "start")
    bench.chat.fail = [ChatError("blocked", is_permanent=True)]
    await bench.settle()
    await bench.bot.reconciler.tick()
    assert bench.chat.sent(r.SubjectReady) == 0
    await bench.ask("start")
    assert bench.chat.last(r.Welcome).has_subject


async def test_a_result_is_shown_once_although_the_chat_was_away(bench: BotBench) -> None:
    await bench.train()
    template = bench.parts.templates.templates[0].template_id
    await bench.press(Choice("use", template))
    bench.chat.fail = [ChatError("slow down", retry_after_s=3)]
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 0
    await bench.bot.reconciler.tick()
    await bench.bot.reconciler.tick()
    assert bench.chat.sent(r.PortraitsReady) == 1


async def test_a_crash_while_showing_a_result_does_not_send_it_twice(bench: BotBench) -> None:
    await bench.train()
    ready = await bench.portrait()
    async with bench.parts.db.transaction() as store:
        await store.jobs.change(ready.job_id, shown="showing")
    await bench.bot.reconciler.tick()
    assert bench.chat.sent(r.PortraitsReady) == 1
    assert bench.chat.said[-1] == ("update", ready), "the known message now holds it for certain"


async def test_a_training_that_is_cancelled_keeps_the_photos(bench: BotBench) -> None:
    await bench.collect()
    await bench.push(r.CollectingPhotos, "start")
    await bench.push(r.Working, "cancel_job")
    await bench.settle()
    assert bench.chat.last(r.Cancelled) == r.Cancelled("train")
    assert not bench.worker.done or bench.worker.done[-1].kind == "inspect"
    await bench.ask("train")
    assert bench.chat.last(r.CollectingPhotos).can_start
    await bench.push(r.CollectingPhotos, "start")
    await bench.settle()
    assert bench.chat.last(r.SubjectReady)


async def test_a_running_job_is_told_to_stop_and_its_late_result_is_dropped(bench: BotBench) -> None:
    await bench.train()
    await bench.press(Choice("use", bench.parts.templates.templates[0].template_id))
    await bench.parts.tasks.settle()
    await relay(bench.parts)
    job = await bench.worker.take()
    assert job is not None
    base = bench.worker.begin(job)
    await bench.ask("cancel")
    await bench.parts.tasks.settle()
    assert await bench.parts.queue.redis.exists(cancel_key(job.job_id))
    await bench.worker.report(e.Succeeded(**base, seq=1, result=await bench.worker.result(job, base["run"])))
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 0
    assert not [key for key in await bench.parts.blobs.keys("users") if "/jobs/" in key]


async def test_a_failed_training_can_be_tried_again_and_is_not_charged(bench: BotBench) -> None:
    await bench.collect()
    bench.worker.fail_with = {"kind": "permanent", "reason": "engine_died"}
    await bench.push(r.CollectingPhotos, "start")
    await bench.settle()
    failed = bench.chat.last(r.JobFailed)
    assert (failed.reason, failed.can_retry) == ("engine_died", True)
    bench.worker.fail_with = None
    await bench.push(r.JobFailed, "retry")
    await bench.settle()
    assert bench.chat.last(r.SubjectReady)
    async with bench.parts.db.transaction() as store:
        people = await store.people.all_ids()
        allowance = await store.operations.allowance(people.pop(), "train", utc_now() - timedelta(days=1))
    assert allowance.charged == 1


async def test_quotas_hold(valkey: ValkeyServer, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}"
    async with bot_bench(url, valkey.url, tmp_path, portraits_per_day=1, trainings_per_day=1) as bench:
        await bench.train()
        await bench.portrait()
        await bench.press(Choice("use", bench.parts.templates.templates[0].template_id))
        quota = bench.chat.last(r.QuotaReached)
        assert (quota.what, quota.limit) == ("portraits", 1)
        assert 0 < quota.again_in_s <= 24 * 3600
        await bench.ask("train")
        assert bench.chat.last(r.QuotaReached).what == "trainings"


async def test_nobody_touches_what_is_not_theirs(bench: BotBench) -> None:
    ready = await bench.train()
    portraits = await bench.portrait()
    portrait_id = portraits.portraits[0].portrait_id
    stolen = [
        Choice("original", portrait_id),
        Choice("delete_portrait", portrait_id),
        Choice("again", portraits.job_id),
        Choice("delete_subject", ready.subject.subject_id),
        Choice("use_subject", ready.subject.subject_id),
        Choice("cancel_job", portraits.job_id),
    ]
    before = await rows(bench)
    await bench.ask("start", who=BEN)
    for choice in stolen:
        answer = await bench.press(choice, BEN)
        assert answer == r.NotYours() or (choice.action == "again" and answer is None), choice
    after = await rows(bench)
    assert {name: after[name] - before[name] for name in ("portraits", "subjects", "jobs")} == dict.fromkeys(
        ("portraits", "subjects", "jobs"), 0
    )
    assert await bench.press(Choice("original", "nosuchthing"), BEN) == r.OutOfDate()
    assert await bench.press(Choice("made_up", "1"), BEN) == r.OutOfDate()


async def test_own_templates_are_checked_used_and_private(bench: BotBench) -> None:
    await bench.train()
    await bench.press(Choice("own_template"))
    await bench.photos(1, first=50)
    await bench.settle()
    ready = bench.chat.last(r.OwnTemplateReady)
    assert ready.faces == 1
    assert ready.template.category == "own"
    await bench.push(r.OwnTemplateReady, "use")
    await bench.settle()
    assert bench.chat.last(r.PortraitsReady).portraits[0].template == ready.template
    await bench.train(BEN)
    assert await bench.press(Choice("use", ready.template.template_id), BEN) == r.NotYours()
    await bench.press(Choice("delete_template", ready.template.template_id))
    await bench.settle()
    assert not [key for key in await bench.parts.blobs.keys("users") if "/templates/" in key]


async def test_a_template_without_a_face_is_refused_and_not_kept(bench: BotBench) -> None:
    bench.worker.template_reason = "no_face"
    await bench.consent()
    await bench.press(Choice("own_template"))
    await bench.photos(1)
    await bench.settle()
    assert bench.chat.last(r.OwnTemplateRefused) == r.OwnTemplateRefused("no_face")
    assert not await bench.parts.blobs.keys("users")


async def test_several_portraits_several_people(valkey: ValkeyServer, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}"
    async with bot_bench(url, valkey.url, tmp_path, portraits_per_job=3) as bench:
        await bench.train(ANNA)
        await bench.train(BEN)
        first = await bench.portrait(ANNA)
        assert (len(first.portraits), first.others) == (1, 2)
        second = await bench.portrait(ANNA)
        assert second.portraits != first.portraits
        await bench.portrait(ANNA)
        await bench.ask("results", who=ANNA)
        assert bench.chat.last(r.Results).pages == 3, "of every order the best one"
        await bench.push(r.Results, "results", ANNA)
        assert bench.chat.last(r.Results).page == 2, "the button before the first page leads to the last"
        await bench.ask("results", who=BEN)
        assert bench.chat.last(r.Results).portraits == ()


async def test_in_a_group_nothing_private_happens(bench: BotBench) -> None:
    await bench.train()
    shown = len(bench.chat.shown)
    await bench.hear(SentPicture(jpeg(3)), is_private=False)
    await bench.settle()
    assert len(bench.chat.shown) == shown, "photos that others post are not for us"
    await bench.hear(Asked("results"), is_private=False)
    assert bench.chat.last(r.PrivateChatOnly)


@pytest.mark.parametrize("moment", ["idle", "uploading", "queued", "training", "generating", "done"])
async def test_forget_leaves_nothing(bench: BotBench, moment: str) -> None:
    redis = bench.parts.queue.redis
    await bench.ask("start", who=BEN)
    before = await rows(bench)
    steps = ["idle", "uploading", "queued", "training", "generating", "done"]
    reached = steps.index(moment)
    running = None
    if reached == 1:
        await bench.consent()
        await bench.photos(3)
        await bench.parts.tasks.settle()
    if reached in (2, 3):
        await bench.collect()
        await bench.push(r.CollectingPhotos, "start")
    if reached == 4:
        await bench.train()
        await bench.press(Choice("use", bench.parts.templates.templates[0].template_id))
    if reached == 5:
        await bench.train()
        await bench.portrait()
    if reached in (3, 4):
        await relay(bench.parts)
        running = await bench.worker.take()
        assert running is not None
        await redis.set(lease_key(running.job_id), "1:1:fake", ex=60)
    await bench.ask("forget")
    await bench.push(r.ConfirmForget, "forget_yes")
    await bench.push(r.ConfirmForgetAgain, "forget_sure")
    await bench.parts.tasks.settle()
    assert bench.chat.last(r.Forgotten)
    if running is not None:
        assert await redis.exists(cancel_key(running.job_id)), "the worker is told to stop"
        # It writes and reports late all the same.
        await bench.worker.run(running)
        await bench.worker.result(running, 1)
        await redis.delete(lease_key(running.job_id))
        await bench.settle()
    await bench.bot.reconciler.tick()
    bench.parts.clock = lambda: utc_now() + timedelta(minutes=11)  # so long late writes are looked for
    await bench.bot.reconciler.tick()
    assert not await bench.parts.blobs.keys("users")
    left = {key.decode() for key in await redis.keys("*")} - {"portrait:events"}
    assert not left
    assert await redis.xlen("portrait:events") == 0
    after = await rows(bench)
    assert after.pop("turns") >= before.pop("turns")
    assert after == before
    engine = open_engine(bench.parts.settings.database)
    async with engine.connect() as connection:
        named = await connection.scalar(
            select(func.count()).select_from(t.Turn).where((t.Turn.person == ANNA.person) | (t.Turn.chat == ANNA.chat))
        )
    await engine.dispose()
    assert named == 0, "handled events name nobody"


async def test_forget_asks_first_and_no_means_no(bench: BotBench) -> None:
    await bench.collect()
    await bench.ask("forget")
    asked = bench.chat.last(r.ConfirmForget)
    assert asked.photos == 6
    await bench.push(r.ConfirmForget, "forget_no")
    assert await bench.press(Choice("forget_yes")) == r.OutOfDate(), "a yes counts only as the answer to the question"
    await bench.photos(1, first=30)
    await bench.settle()
    assert len(bench.chat.last(r.CollectingPhotos).photos) == 7, "the collection goes on where it was"


async def test_old_things_expire(bench: BotBench) -> None:
    await bench.train()
    await bench.portrait()
    await bench.collect(who=BEN)
    bench.parts.clock = lambda: utc_now() + timedelta(days=100)
    await bench.bot.retention.warn()
    bench.parts.clock = lambda: utc_now() + timedelta(days=104)
    await bench.bot.retention.expire()
    assert not [key for key in await bench.parts.blobs.keys("users") if key.endswith((".jpg", ".safetensors"))]
    left = await rows(bench)
    assert left.keys() <= {"users", "identities", "consents", "messages", "kept_files", "inbox", "user_keys"}


async def test_what_breaks_inside_is_apologised_for(bench: BotBench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(bench.parts.intake, "take", broken)
    await bench.consent()
    answer = await bench.hear(SentPicture(jpeg(1)))
    assert isinstance(answer, r.Apology)
    assert bench.chat.last(r.Apology) == answer
    await bench.ask("help")
    assert bench.chat.last(r.Help), "the conversation goes on"


async def test_blobs_that_belong_to_nothing_are_swept_and_others_are_not(bench: BotBench) -> None:
    await bench.train()
    await bench.portrait()
    kept = await bench.parts.blobs.keys("users")
    user = kept[0].split("/")[1]
    stray = [f"users/{user}/photos/stray0.jpg", f"users/{user}/jobs/stray0/1-1/0.jpg", "users/nobody/photos/stray0.jpg"]
    for key in stray:
        await bench.worker.stored.put(key, b"x")
    await bench.bot.retention.sweep_blobs()
    assert set(stray) < set(await bench.parts.blobs.keys("users")), "what was just written may get its row in a moment"
    await bench.bot.retention.sweep_blobs()
    assert await bench.parts.blobs.keys("users") == kept


async def test_forty_people_at_once_are_all_served(bench: BotBench) -> None:
    people = [Address("telegram", str(chat), str(chat)) for chat in range(2000, 2040)]

    async def visit(who: Address) -> None:
        await bench.ask("start", who=who)
        await bench.ask("train", who=who)
        await bench.press(Choice("agree", CONSENT_VERSION), who)
        await bench.photos(2, who)

    await asyncio.gather(*(visit(who) for who in people))
    await bench.settle()
    statuses = [reply for reply in bench.chat.shown.values() if isinstance(reply, r.CollectingPhotos)]
    assert len(statuses) == 40
    assert all([photo.verdict for photo in status.photos] == ["ok", "ok"] for status in statuses)


async def test_a_result_on_its_way_while_its_person_is_forgotten_is_taken_back(bench: BotBench) -> None:
    await bench.train()

    async def forgotten_meanwhile(reply: Reply) -> None:
        if isinstance(reply, r.PortraitsReady):
            async with bench.parts.db.transaction() as store:
                person = await store.people.find(ANNA)
                assert person is not None
                await store.people.forget(person.user_id, bench.parts.clock())

    bench.chat.meanwhile = forgotten_meanwhile
    await bench.press(Choice("use", bench.parts.templates.templates[0].template_id))
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 1
    assert not [reply for reply in bench.chat.shown.values() if isinstance(reply, r.PortraitsReady)]
