"""What people do with what they have: portraits, models, templates with several faces. Real database and Valkey."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from bot import replies as r
from bot.dialogue import Asked, Filled
from bot.domain import MessageRef
from bot.replies import Choice
from gpu_worker.contract.jobs import MakePortraits, TrainSubject
from tests.bot_bench import ANNA, BEN, BotBench, bot_bench
from tests.valkey import ValkeyServer


@pytest.fixture
async def bench(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}"
    async with bot_bench(url, valkey.url, tmp_path, portraits_per_job=3) as made:
        yield made


def last_order(bench: BotBench) -> MakePortraits:
    job = bench.worker.done[-1]
    assert isinstance(job, MakePortraits)
    return job


async def train_another(bench: BotBench) -> r.SubjectReady:
    await bench.ask("train")
    await bench.photos(6, first=40)
    await bench.settle()
    await bench.push(r.CollectingPhotos, "start")
    await bench.settle()
    ready: r.SubjectReady = bench.chat.last(r.SubjectReady)
    return ready


async def test_consent_buttons_go_once_they_did_their_work(bench: BotBench) -> None:
    await bench.consent()
    assert bench.chat.last(r.ConsentGiven)
    assert not [reply for reply in bench.chat.shown.values() if isinstance(reply, r.AskConsent)]


async def test_a_favourite_is_marked_where_it_was_pressed_and_listed_by_itself(bench: BotBench) -> None:
    await bench.train()
    first, _ = await bench.portrait(), await bench.portrait()
    shown = next(message_id for message_id, reply in bench.chat.shown.items() if reply == first)
    this = first.portraits[0].portrait_id
    assert await bench.press(Choice("favourite", this), message_id=shown) is None
    marked = bench.chat.shown[shown]
    assert isinstance(marked, r.PortraitsReady)
    assert marked.portraits[0].is_favourite
    await bench.ask("results")
    assert (bench.chat.last(r.Results).pages, bench.chat.last(r.Results).favourites) == (2, 1)
    await bench.push(r.Results, "results")  # of two pages: back, which is the last one
    await bench.press(Choice("results", "f0"))
    only = bench.chat.last(r.Results)
    assert (only.only_favourites, only.pages, only.portraits[0].portrait_id) == (True, 1, this)
    await bench.push(r.Results, "favourite")
    assert not bench.chat.last(r.Results).only_favourites, "the last favourite is gone, so all are shown"
    assert await bench.press(Choice("favourite", this), BEN) == r.NotYours()
    assert await bench.press(Choice("favourite", "0.nosuchportrait"), BEN) == r.OutOfDate()


async def test_more_like_this_is_the_same_order_with_other_seeds_and_more_candidates(bench: BotBench) -> None:
    await bench.train()
    ready = await bench.portrait()
    before = last_order(bench)
    await bench.push(r.PortraitsReady, "more")
    await bench.settle()
    after = last_order(bench)
    assert (after.template_key, after.subject_id) == (before.template_key, before.subject_id)
    assert after.seed != before.seed
    assert (before.count, after.count) == (3, 4)
    assert await bench.press(Choice("more", ready.portraits[0].portrait_id), BEN) is None
    assert bench.chat.last(r.NoSubject)
    await bench.train(BEN)
    assert await bench.press(Choice("more", ready.portraits[0].portrait_id), BEN) == r.NotYours()


async def test_the_best_candidate_is_shown_and_the_others_behind_a_button(bench: BotBench) -> None:
    await bench.train()
    ready = await bench.portrait()
    assert (len(ready.portraits), ready.others) == (1, 2)
    await bench.push(r.PortraitsReady, "others")
    others = bench.chat.last(r.OtherCandidates).portraits
    assert len(others) == 2
    assert await bench.press(Choice("favourite", others[1].portrait_id)) == r.FavouriteSet(True)
    shown = last_message(bench, r.PortraitsReady)
    await bench.press(Choice("delete_portrait", ready.portraits[0].portrait_id), message_id=shown)
    await bench.settle()
    assert shown in bench.chat.deleted, "what shows a deleted portrait is deleted"
    await bench.ask("results")
    results = bench.chat.last(r.Results)
    assert results.pages == 2, "the second best took the place of the best, and there is a favourite"
    assert await bench.press(Choice("others", ready.job_id), BEN) == r.NotYours()
    assert await bench.press(Choice("others", "nosuchjob"), BEN) == r.OutOfDate()


async def test_full_size_says_how_large_it_is(bench: BotBench) -> None:
    await bench.train()
    await bench.portrait()
    await bench.push(r.PortraitsReady, "original")
    assert bench.chat.last(r.OriginalFile).portrait.width == 640


async def test_several_people_are_put_into_a_picture_face_by_face(bench: BotBench) -> None:
    anna = (await bench.train()).subject
    ben = (await train_another(bench)).subject
    bench.worker.template_faces = 3
    await bench.press(Choice("own_template"))
    await bench.photos(1, first=90)
    await bench.settle()
    assert bench.chat.last(r.OwnTemplateReady).faces == 3
    await bench.push(r.OwnTemplateReady, "seat")
    question = bench.chat.last(r.ChooseFace)
    assert [subject.subject_id for subject in question.subjects] == [ben.subject_id, anna.subject_id]
    picture = Image.open(io.BytesIO(await bench.parts.blobs.get(question.picture_key)))
    assert picture.convert("RGB").getpixel((0, 120)) == pytest.approx((37, 99, 235), abs=60), "frames show the faces"
    await bench.press(Choice("face", f"1.{anna.subject_id}"), message_id=last_message(bench, r.ChooseFace))
    assert bench.chat.last(r.ChooseFace).chosen == ("Model 1",)
    await bench.press(Choice("face", "2."), message_id=last_message(bench, r.ChooseFace))
    bench.worker.skip = {2: "face_failed"}
    await bench.press(Choice("face", f"3.{ben.subject_id}"), message_id=last_message(bench, r.ChooseFace))
    await bench.settle()
    seats = [seat.subject_id if seat else None for seat in last_order(bench).faces]
    assert seats == [anna.subject_id, None, ben.subject_id]
    assert bench.chat.last(r.ChooseFace).face == 4, "the question says what was chosen, without buttons"
    assert bench.chat.last(r.PortraitsReady).skipped == (r.SkippedFace(3, "face_failed"),)
    await bench.push(r.PortraitsReady, "again")
    await bench.settle()
    assert [seat.subject_id if seat else None for seat in last_order(bench).faces] == seats
    await bench.press(Choice("delete_subject_yes", ben.subject_id))
    await bench.push(r.PortraitsReady, "again")
    await bench.settle()
    assert [seat.subject_id if seat else None for seat in last_order(bench).faces] == [anna.subject_id, None, None]
    template_id = question.template.template_id
    assert await bench.press(Choice("seat", f"{template_id}.3"), BEN) is None
    assert bench.chat.last(r.NoSubject), "who has no model is told so first"
    await bench.train(BEN)
    assert await bench.press(Choice("seat", f"{template_id}.3"), BEN) == r.NotYours()
    await bench.press(Choice("delete_template", template_id))
    await bench.settle()
    assert not [key for key in await bench.parts.blobs.keys("users") if "/templates/" in key]


async def test_a_template_with_several_faces_that_is_ordered_by_name_asks_who_goes_where(bench: BotBench) -> None:
    await bench.train()
    bench.worker.template_faces = 2
    await bench.press(Choice("own_template"))
    await bench.photos(1, first=90)
    await bench.settle()
    template = bench.chat.last(r.OwnTemplateReady).template
    await bench.ask("portrait", template.template_id)
    assert bench.chat.last(r.Gallery).template == template
    assert bench.chat.button(r.Gallery, "seat") == Choice("seat", f"{template.template_id}.2")


async def test_a_model_is_named_by_typing_or_by_a_dialog(bench: BotBench) -> None:
    subject = (await bench.train()).subject
    await bench.push(r.SubjectReady, "rename")
    await bench.type("x" * 40)
    assert bench.chat.last(r.AskName).problem == "too_long"
    await bench.type(" Anna  Summer ")
    card = bench.chat.last(r.SubjectCard)
    assert (card.subject.name, card.is_current, card.subject.likeness) == ("Anna Summer", True, 0.6)
    await bench.hear(Filled(Choice("rename", subject.subject_id), "Me"))
    assert bench.chat.last(r.SubjectCard).subject.name == "Me"
    assert await bench.hear(Filled(Choice("rename", subject.subject_id), "Mine"), BEN) is None
    await bench.ask("models")
    assert [each.name for each in bench.chat.last(r.Models).subjects] == ["Me"]


async def test_a_name_can_come_with_the_photos(bench: BotBench) -> None:
    await bench.collect()
    await bench.hear(Filled(Choice("name_model"), "Anna"))
    await bench.push(r.CollectingPhotos, "start")
    await bench.settle()
    assert bench.chat.last(r.SubjectReady).subject.name == "Anna"


async def test_a_card_shows_a_model_and_deleting_it_is_asked_first(bench: BotBench) -> None:
    first = (await bench.train()).subject
    second = (await train_another(bench)).subject
    await bench.portrait()
    await bench.ask("models")
    await bench.press(Choice("subject", second.subject_id), message_id=last_message(bench, r.Models))
    card = bench.chat.last(r.SubjectCard)
    assert (card.portraits, card.is_current, card.subject.preview_key) == (1, True, second.preview_key)
    await bench.push(r.SubjectCard, "delete_subject")
    assert bench.chat.last(r.ConfirmDeleteSubject).subject.subject_id == second.subject_id
    await bench.push(r.ConfirmDeleteSubject, "delete_subject_yes")
    await bench.settle()
    await bench.ask("models")
    models = bench.chat.last(r.Models)
    assert [subject.subject_id for subject in models.subjects] == [first.subject_id]
    assert models.current_id == first.subject_id
    assert not [key for key in await bench.parts.blobs.keys("users") if second.subject_id in key]
    await bench.ask("results")
    assert bench.chat.last(r.Results).pages == 1, "the portrait stays"


async def test_kept_photos_serve_a_retraining_which_takes_the_models_place(bench: BotBench) -> None:
    await bench.collect()
    await bench.push(r.CollectingPhotos, "keep_photos")
    assert bench.chat.last(r.CollectingPhotos).keeps_photos
    await bench.push(r.CollectingPhotos, "start")
    await bench.settle()
    old = bench.chat.last(r.SubjectReady).subject
    portrait = await bench.portrait()
    await bench.hear(Filled(Choice("rename", old.subject_id), "Anna"))
    assert bench.chat.last(r.SubjectCard).subject.photos == 6
    await bench.push(r.SubjectCard, "retrain")
    await bench.photos(2, first=60)
    await bench.settle()
    status = bench.chat.last(r.CollectingPhotos)
    assert (len(status.photos), status.retrains, status.can_start) == (8, "Anna", True)
    await bench.push(r.CollectingPhotos, "start")
    await bench.settle()
    trained = [job for job in bench.worker.done if isinstance(job, TrainSubject)]
    assert len(trained[-1].photos) == 8
    new = bench.chat.last(r.SubjectReady).subject
    assert (new.name, new.photos) == ("Anna", 8)
    await bench.ask("models")
    assert [subject.subject_id for subject in bench.chat.last(r.Models).subjects] == [new.subject_id]
    assert not [key for key in await bench.parts.blobs.keys("users") if old.subject_id in key]
    await bench.press(Choice("again", portrait.job_id))
    await bench.settle()
    assert last_order(bench).subject_id == new.subject_id, "the old one's orders go on with the new one"
    await bench.press(Choice("delete_subject_yes", new.subject_id))
    await bench.settle()
    assert not [key for key in await bench.parts.blobs.keys("users") if "/photos/" in key], "its photos go with it"


async def test_a_cancelled_retraining_keeps_what_was_kept(bench: BotBench) -> None:
    await bench.collect()
    await bench.push(r.CollectingPhotos, "keep_photos")
    await bench.push(r.CollectingPhotos, "start")
    await bench.settle()
    subject = bench.chat.last(r.SubjectReady).subject
    await bench.press(Choice("retrain", subject.subject_id))
    await bench.settle()
    await bench.push(r.CollectingPhotos, "cancel_collection")
    assert bench.chat.last(r.Cancelled) == r.Cancelled("retraining")
    await bench.press(Choice("subject", subject.subject_id))
    assert bench.chat.last(r.SubjectCard).subject.photos == 6
    await bench.bot.retention.sweep_blobs()
    await bench.bot.retention.sweep_blobs()
    assert len([key for key in await bench.parts.blobs.keys("users") if "/photos/" in key]) == 6


async def test_without_kept_photos_a_retraining_asks_for_them_again(bench: BotBench) -> None:
    subject = (await bench.train()).subject
    await bench.press(Choice("subject", subject.subject_id))
    assert bench.chat.last(r.SubjectCard).subject.photos == 0
    await bench.push(r.SubjectCard, "retrain")
    empty = bench.chat.last(r.CollectingPhotos)
    assert (empty.photos, empty.retrains) == ((), "Model 1")
    assert await bench.press(Choice("retrain", subject.subject_id)) is None
    assert bench.chat.last(r.AlreadyCollecting)
    await bench.photos(6, first=60)
    await bench.settle()
    await bench.push(r.CollectingPhotos, "start")
    await bench.settle()
    await bench.ask("models")
    (only,) = bench.chat.last(r.Models).subjects
    assert only.name == "Model 1"
    assert only.subject_id != subject.subject_id


async def test_a_full_shelf_of_models_can_still_be_retrained(valkey: ValkeyServer, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}"
    async with bot_bench(url, valkey.url, tmp_path, subjects_per_user=1) as bench:
        subject = (await bench.train()).subject
        await bench.ask("train")
        assert bench.chat.last(r.QuotaReached).what == "subjects"
        await bench.press(Choice("retrain", subject.subject_id))
        await bench.photos(6, first=60)
        await bench.settle()
        await bench.push(r.CollectingPhotos, "start")
        await bench.settle()
        await bench.ask("models")
        assert len(bench.chat.last(r.Models).subjects) == 1


async def test_forgetting_is_asked_twice(bench: BotBench) -> None:
    await bench.train()
    await bench.ask("forget")
    asked = last_message(bench, r.ConfirmForget)
    assert await bench.press(Choice("forget_sure"), message_id=asked) == r.OutOfDate(), "the second answer is no first"
    await bench.ask("forget")
    await bench.push(r.ConfirmForget, "forget_yes")
    await bench.push(r.ConfirmForgetAgain, "forget_no")
    await bench.ask("models")
    assert bench.chat.last(r.Models).subjects
    await bench.ask("forget")
    await bench.push(r.ConfirmForget, "forget_yes")
    await bench.push(r.ConfirmForgetAgain, "forget_sure")
    receipt = bench.chat.last(r.Forgotten).receipt.counts
    assert (receipt["subjects"], receipt["consents"]) == (1, 1)
    assert receipt["messages"] > 0


def last_message(bench: BotBench, kind: type) -> str:
    return [message_id for message_id, reply in bench.chat.shown.items() if isinstance(reply, kind)][-1]


async def test_the_receipt_waits_for_what_it_lists(bench: BotBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer to something before may be on its way while messages are being deleted."""
    delete = bench.chat.delete

    async def meanwhile(ref: MessageRef) -> bool:
        await bench.hear(Asked("help"), event_id="heard before, delivered again")
        await bench.bot.delivery.answer(ANNA.platform, ANNA.person)
        return await delete(ref)

    monkeypatch.setattr(bench.chat, "delete", meanwhile)
    await bench.hear(Asked("help"), event_id="heard before, delivered again")
    await bench.ask("forget")
    await bench.push(r.ConfirmForget, "forget_yes")
    await bench.push(r.ConfirmForgetAgain, "forget_sure")
    assert bench.chat.last(r.Forgotten).receipt.counts["messages"] >= 2
