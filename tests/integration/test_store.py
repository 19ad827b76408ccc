"""The store on both databases: concurrent updates, cascades, times, the queue's order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from bot.db.collections import Judgement
from bot.db.database import Database, open_database
from bot.db.library import OwnedPortrait
from bot.db.migrate import upgrade
from bot.db.store import Store
from bot.db.turns import UnsaidTurn
from bot.domain import (
    Address,
    JobKind,
    JobStatus,
    MessageRef,
    NewJob,
    PortraitView,
    QueuePlace,
    Subject,
    Workers,
    new_id,
    queue_score,
)
from tests.bot_bench import ANNA, BEN
from tests.integration.postgres import database_url

__all__ = ["database_url"]

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    await asyncio.to_thread(upgrade, database_url)
    opened = open_database(database_url)
    yield opened
    await opened.close()


async def user(store: Store, who: Address = ANNA) -> str:
    return (await store.people.meet(who, "en", NOON)).user_id


async def add_job(store: Store, user_id: str, kind: JobKind = "portrait", at: datetime = NOON, **more: Any) -> str:
    job_id = new_id()
    score = queue_score(at, len(await store.jobs.open_of(user_id, (kind,))))
    await store.jobs.add(NewJob(job_id, user_id, kind, ANNA, {"job_id": job_id}, score, **more), at)
    return job_id


async def test_no_update_is_lost_to_a_concurrent_one(db: Database) -> None:
    async with db.transaction() as store:
        session_id, user_id = new_id(), await user(store)
        await store.collections.open(session_id, user_id, ANNA, NOON)

    async def add_photos() -> None:
        for _ in range(5):
            async with db.transaction() as store:
                await store.people.meet(ANNA, "en", NOON)
                await store.collections.add_photo(session_id, new_id(), NOON)

    await asyncio.gather(*(add_photos() for _ in range(4)))
    async with db.transaction() as store:
        stored = await store.collections.get(session_id)
    assert stored is not None
    assert [photo.number for photo in stored.collection.photos] == list(range(1, 21))
    assert stored.version == 20


async def test_a_transaction_that_breaks_leaves_nothing(db: Database) -> None:
    async def break_off() -> None:
        async with db.transaction() as store:
            await user(store)
            raise RuntimeError("broken on purpose")

    with pytest.raises(RuntimeError):
        await break_off()
    async with db.transaction() as store:
        assert await store.people.all_ids() == set()


async def test_one_event_is_handled_by_one_of_two_at_once(db: Database) -> None:
    async def handle() -> bool:
        try:
            async with db.transaction() as store:
                if await store.turns.is_known("telegram", "7"):
                    return False
                await asyncio.sleep(0.01)
                await store.turns.add(UnsaidTurn("7", ANNA, "en", ({"job": "x"},), None), NOON)
        except IntegrityError:
            return False
        return True

    assert sum(await asyncio.gather(*(handle() for _ in range(4)))) == 1


async def test_what_was_said_names_nobody(db: Database) -> None:
    async with db.transaction() as store:
        pressed = MessageRef(ANNA, "55", is_picture=True)
        await store.turns.add(UnsaidTurn("1", ANNA, "zh", ({"job": "x"},), pressed), NOON)
    async with db.transaction() as store:
        (turn,) = await store.turns.unsaid("telegram", ANNA.person)
        assert turn == UnsaidTurn("1", ANNA, "zh", ({"job": "x"},), pressed)
        assert await store.turns.waiting_people(NOON + timedelta(seconds=1), NOON + timedelta(seconds=2)) == [
            ("telegram", ANNA.person)
        ]
        assert await store.turns.waiting_people(NOON - timedelta(seconds=1), NOON) == []
        await store.turns.said(ANNA, ["1"], NOON)
    async with db.transaction() as store:
        assert await store.turns.unsaid("telegram", ANNA.person) == []
        assert await store.turns.is_known("telegram", "1")


async def test_times_keep_their_zone(db: Database) -> None:
    local = datetime(2026, 11, 22, 20, tzinfo=timezone(timedelta(hours=8)))
    async with db.transaction() as store:
        job_id = await add_job(store, await user(store), at=local)
    async with db.transaction() as store:
        job = await store.jobs.get(job_id)
    assert job is not None
    assert job.created_at == local
    assert job.created_at.tzinfo is not None


async def test_forgetting_one_user_takes_all_of_theirs_and_nothing_of_others(db: Database) -> None:
    async with db.transaction() as store:
        for who in (ANNA, BEN):
            mine = await user(store, who)
            session_id, subject = new_id(), Subject(new_id(), "n", NOON, 0.5, None)
            await store.people.record_consent(mine, "1", who, "en", NOON)
            await store.collections.open(session_id, mine, who, NOON)
            await store.collections.add_photo(session_id, new_id(), NOON)
            await store.library.add_subject(mine, subject, "prefix", None)
            await store.library.add_template(mine, new_id(), "key", NOON)
            job_id = await add_job(store, mine)
            view = PortraitView(new_id(), "k", 1, 1, None)
            await store.library.add_portrait(OwnedPortrait(view, job_id, mine, None, subject.subject_id), 1, NOON)
            await store.people.keep_message(mine, MessageRef(who, "9"), NOON, None)
    async with db.transaction() as store:
        person = await store.people.find(ANNA)
        assert person is not None
        gone = await store.people.forget(person.user_id, NOON)
    assert gone.counts == {"photos": 1, "subjects": 1, "portraits": 1, "templates": 1, "jobs": 1, "consents": 1}
    assert gone.messages == (MessageRef(ANNA, "9"),)
    async with db.transaction() as store:
        assert await store.people.find(ANNA) is None
        other = await store.people.find(BEN)
        assert other is not None
        assert await store.library.count_portraits(other.user_id) == 1
        assert len(await store.jobs.all_open()) == 1
        assert len(await store.collections.stored_photos(other.user_id)) == 1


async def test_verdicts_belong_to_the_state_that_was_judged(db: Database) -> None:
    async with db.transaction() as store:
        session_id, photos = new_id(), [new_id(), new_id()]
        await store.collections.open(session_id, await user(store), ANNA, NOON)
        await store.collections.add_photo(session_id, photos[0], NOON)
        before = await store.collections.get(session_id)
        assert before is not None
        await store.collections.add_photo(session_id, photos[1], NOON)
        verdict = Judgement(photos[0], "ok", None, {"sharpness": 3.5})
        await store.collections.judge(session_id, [verdict], photos[0], before.version)
        now = await store.collections.get(session_id)
        assert now is not None
        assert [photo.verdict for photo in now.collection.photos] == ["ok", "unknown"]
        assert now.collection.photos[0].is_reference
        assert now.collection.is_checking, "the second photo has not been looked at"
        assert await store.collections.to_be_checked(NOON + timedelta(seconds=1), NOON + timedelta(seconds=5)) == [
            session_id
        ]


async def test_the_place_in_the_queue_and_its_eta_are_measured(db: Database) -> None:
    async with db.transaction() as store:
        anna, ben = await user(store), await user(store, BEN)
        for seconds in (20, 30, 100):
            old = await add_job(store, ben)
            finished = NOON + timedelta(seconds=seconds)
            await store.jobs.change(old, status=JobStatus.SUCCEEDED, started_at=NOON, finished_at=finished)
        running = await add_job(store, ben)
        await store.jobs.change(running, status=JobStatus.RUNNING, started_at=NOON, fraction=0.5)
        first = await add_job(store, ben, at=NOON + timedelta(seconds=1))
        second = await add_job(store, anna, at=NOON + timedelta(seconds=2))
        places = []
        for job_id in (running, first, second):
            job = await store.jobs.get(job_id)
            assert job is not None
            places.append(await store.jobs.place_of(job, workers=Workers(1)))
        # Ben has a job under way, so Anna's, ordered later, is next. Half of a usual 30 s are left of the running one.
        assert places == [QueuePlace(0, 15), QueuePlace(2, 75), QueuePlace(1, 45)]
        waits = await store.jobs.get(second)
        assert waits is not None
        starting = await store.jobs.place_of(waits, Workers(2, starting=2))
        assert starting == QueuePlace(1, None, is_starting=True), "nobody knows when they begin"
        assert await store.jobs.waiting() == 3


async def test_without_history_there_is_a_place_but_no_eta(db: Database) -> None:
    async with db.transaction() as store:
        job = await store.jobs.get(await add_job(store, await user(store), "train"))
        assert job is not None
        assert await store.jobs.place_of(job, workers=Workers(0)) == QueuePlace(1, None, is_served=False)


async def test_failed_and_cancelled_work_is_not_charged(db: Database) -> None:
    async with db.transaction() as store:
        mine = await user(store)
        for status in JobStatus:
            await store.jobs.change(await add_job(store, mine), status=status)
        await add_job(store, mine, at=NOON - timedelta(days=2))
        allowance = await store.operations.allowance(mine, "portrait", NOON - timedelta(days=1))
    assert allowance.charged == 3
    assert allowance.oldest == NOON


async def test_updates_stay_in_the_inbox_until_they_are_done(db: Database) -> None:
    async with db.transaction() as store:
        assert await store.mail.store("telegram", {2: "two", 1: "one"}, NOON) == {1, 2}
    async with db.transaction() as store:
        assert await store.mail.store("telegram", {2: "two again", 3: "three"}, NOON) == {3}
        assert await store.mail.pending("telegram") == ["one", "two", "three"]
        await store.mail.done("telegram", 1)
        await store.mail.done("telegram", 3)
    async with db.transaction() as store:
        assert await store.mail.pending("telegram") == ["two"]
        assert await store.mail.pending("discord") == []


async def test_an_uploaded_template_is_remembered(db: Database) -> None:
    async with db.transaction() as store:
        await store.mail.keep_file("telegram", "templates/a.jpg", "file-1")
        await store.mail.keep_file("telegram", "templates/a.jpg", "file-2")
        assert await store.mail.kept_file("telegram", "templates/a.jpg") == "file-2"
        assert await store.mail.kept_file("discord", "templates/a.jpg") is None
