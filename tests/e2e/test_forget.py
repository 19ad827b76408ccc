"""/forget at every moment, on both platforms: afterwards nothing of the person is left anywhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bot.sandbox.person import choice_in, find_button, words
from bot.sandbox.visit import Visitor
from tests.e2e.conftest import Studio
from tests.e2e.test_conversation import collected, ordered, trained
from tests.e2e.town import LIMIT_S, Place, Town, place_in, town, until
from tests.traces import no_traces, traces

MOMENTS = ["uploading", "queued", "training", "generating", "done"]
SLOW = "tests.e2e.slow_engine"


@pytest.mark.parametrize("moment", MOMENTS)
async def test_telegram(studio: Studio, selfies: list[Path], moment: str) -> None:
    if moment != "uploading":
        studio.start_worker(SLOW if moment in ("training", "generating") else "tests.stand_in_engine")
    studio.start_bot()
    async with studio.visitor() as visitor:
        await _telegram_until(moment, studio, visitor, selfies)
        assert await traces(studio.settings, studio.work_dir), "there is something to forget"
        await _press_through(visitor)
        await visitor.person.wait_message(lambda m: "Everything is deleted." in words(m), LIMIT_S)
        if moment in ("uploading", "queued"):
            studio.start_worker()  # one that comes later finds nothing to do
            await asyncio.sleep(2)
        await no_traces(studio.settings, studio.work_dir)

        def left() -> list[str]:
            return [words(m) for m in visitor.person.messages.values() if m["from"]["is_bot"]]

        await until(lambda: len(left()) == 1)  # of the bot's messages the receipt alone
        (receipt,) = left()
        assert "Everything is deleted." in receipt
        if moment in ("generating", "done"):
            assert "1 model" in receipt
            assert "LoRA" in receipt
        assert "messages" in receipt


async def _telegram_until(moment: str, studio: Studio, visitor: Visitor, selfies: list[Path]) -> None:
    if moment == "uploading":
        await visitor.begin()
        await visitor.send_photos(selfies)
        return
    if moment == "queued":
        await visitor.begin()
        await visitor.send_photos(selfies)
        collection = await visitor.verdicts(studio.is_judged)
        studio.kill(studio.worker)
        await visitor.order(collection, "start")
        return
    training = await collected(studio, visitor, selfies)
    await studio.until_it_runs(training)
    if moment == "training":
        await asyncio.sleep(1)  # a checkpoint may be on its way
        return
    await trained(studio, visitor, training)
    drawing = await ordered(visitor)
    if moment == "generating":
        await studio.until_it_runs(drawing)
    else:
        await visitor.outcome("portrait", "original", lambda: studio.has_failed(drawing), LIMIT_S)


async def _press_through(visitor: Visitor) -> None:
    await visitor.person.say("/forget")
    asked = await visitor.person.wait_message(lambda m: find_button(m, "forget_yes") is not None, LIMIT_S)
    await visitor.press(asked, "forget_yes")
    sure = await visitor.person.wait_message(lambda m: find_button(m, "forget_sure") is not None, LIMIT_S)
    button = find_button(sure, "forget_sure")
    assert button is not None
    assert choice_in(button)[0] == "forget_sure"
    await visitor.person.press(sure, button)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_discord(tmp_path: Path, moment: str) -> None:
    with place_in(tmp_path) as place:
        if moment != "uploading":
            place.start_worker(SLOW if moment in ("training", "generating") else "tests.stand_in_engine")
        async with town(place) as here:
            await _discord_until(moment, here)
            settings, work = place.settings(here.discord), tmp_path / "work"
            assert await traces(settings, work), "there is something to forget"
            await here.discord.command(here.me, "forget")
            await here.discord.push(here.me, "forget_yes")
            await here.discord.push(here.me, "forget_sure")
            receipt = await here.discord.until(lambda m: "Everything is deleted." in m.text, LIMIT_S)
            if moment in ("uploading", "queued"):
                place.start_worker()
                await asyncio.sleep(2)
            await no_traces(settings, work)
            # Answers that only the person saw are deleted too, as long as Discord permits it.
            await until(lambda: [m for m in here.discord.messages.values() if not m.is_thinking] == [receipt])
            if moment in ("generating", "done"):
                assert "1 model" in receipt.text
                assert "LoRA" in receipt.text
            assert "messages" in receipt.text


async def _discord_until(moment: str, here: Town) -> None:
    if moment == "uploading":
        await here.discord.command(here.me, "train", here.photos(6), agree=True)
        await here.discord.until(lambda m: "6 photos" in m.text, LIMIT_S)
        return
    await here.train_until_start()
    if moment == "queued":
        _kill(here.place)
        await here.discord.push(here.me, "start")
        await here.discord.has_button("cancel_job", LIMIT_S)
        return
    await here.discord.push(here.me, "start")
    if moment == "training":
        await here.discord.until(lambda m: "Learning your face" in m.text or "model is ready" in m.text, LIMIT_S)
        return
    await here.discord.until(lambda m: "model is ready" in m.text, LIMIT_S)
    await here.use()
    if moment == "generating":
        await here.discord.until(lambda m: "Painting" in m.text or "original" in m.buttons, LIMIT_S)
    else:
        await here.discord.has_button("original", LIMIT_S)


def _kill(place: Place) -> None:
    assert place.worker is not None
    place.worker.kill()
    place.worker.wait()
    place.worker = None
