"""Whole conversations: real bot, real worker process, real Valkey, the sandbox; only the engine is a stand-in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bot.domain import JobStatus
from bot.sandbox.person import find_button
from bot.sandbox.visit import Visitor
from bot.templates import load_templates
from tests.e2e.conftest import Studio

LIMIT_S = 60.0
SLOW = "tests.e2e.slow_engine"


async def collected(studio: Studio, visitor: Visitor, selfies: list[Path]) -> str:
    """From /start to the press of Start; the training's id."""
    await visitor.begin()
    await visitor.send_photos(selfies)
    collection = await visitor.verdicts(studio.is_judged)
    return await visitor.order(collection, "start")


async def trained(studio: Studio, visitor: Visitor, training: str) -> None:
    await visitor.outcome("trained model", "gallery", lambda: studio.has_failed(training), LIMIT_S)


async def ordered(visitor: Visitor) -> str:
    return await visitor.order(await visitor.find_template(load_templates().templates[1].template_id), "use")


async def drawn(studio: Studio, visitor: Visitor, drawing: str) -> None:
    await visitor.outcome("portrait", "original", lambda: studio.has_failed(drawing), LIMIT_S)
    await asyncio.sleep(1.5)  # a second one would come now
    portraits = [m for m in visitor.person.messages.values() if find_button(m, "original")]
    assert len(portraits) == 1


@pytest.mark.parametrize("language", ["en", "zh"])
async def test_from_selfies_to_a_portrait(studio: Studio, selfies: list[Path], language: str) -> None:
    studio.start_worker()
    studio.start_bot()
    async with studio.visitor(language=language) as visitor:
        await trained(studio, visitor, await collected(studio, visitor, selfies))
        await drawn(studio, visitor, await ordered(visitor))
    commands = studio.sandbox.world.memory.commands
    assert commands["zh"] != commands[""]


async def test_a_worker_that_is_killed_in_a_training_costs_nobody_the_portrait(
    studio: Studio, selfies: list[Path]
) -> None:
    studio.start_worker(SLOW)
    studio.start_bot()
    async with studio.visitor() as visitor:
        training = await collected(studio, visitor, selfies)
        await studio.until_it_runs(training)
        await asyncio.sleep(1)
        studio.kill(studio.worker)
        studio.start_worker(SLOW)
        await trained(studio, visitor, training)
        drawing = await ordered(visitor)
        await studio.until_it_runs(drawing)
        studio.kill(studio.worker)
        studio.start_worker()
        await drawn(studio, visitor, drawing)


async def test_a_bot_that_is_killed_comes_back_and_ends_the_conversation(studio: Studio, selfies: list[Path]) -> None:
    studio.start_worker(SLOW)
    studio.start_bot()
    async with studio.visitor() as visitor:
        training = await collected(studio, visitor, selfies)
        await studio.until_it_runs(training)
        studio.kill(studio.bot)
        await asyncio.sleep(5)  # the training ends while nobody listens
        outcome = asyncio.create_task(trained(studio, visitor, training))
        await asyncio.sleep(0)
        studio.start_bot()
        await outcome
        drawing = await ordered(visitor)
        studio.kill(studio.bot)
        outcome = asyncio.create_task(drawn(studio, visitor, drawing))
        await asyncio.sleep(0)
        studio.start_bot()
        await outcome


async def test_photos_that_a_killed_bot_had_taken_are_not_lost(studio: Studio, selfies: list[Path]) -> None:
    studio.start_worker()
    studio.start_bot()
    async with studio.visitor() as visitor:
        await visitor.begin()
        await visitor.send_photos(selfies)
        async with asyncio.timeout(LIMIT_S):
            while studio.sandbox.world.memory.updates:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        studio.kill(studio.bot)
        studio.start_bot()
        collection = await visitor.verdicts(studio.is_judged)
        training = await visitor.order(collection, "start")
        await trained(studio, visitor, training)
        async with studio.db.transaction() as store:
            job = await store.jobs.get(training)
        assert job is not None
        assert len(job.payload["photos"]) == len(selfies)


async def test_who_blocks_the_bot_finds_the_portrait_after_coming_back(studio: Studio, selfies: list[Path]) -> None:
    studio.start_worker()
    studio.start_bot()
    async with studio.visitor() as visitor:
        await trained(studio, visitor, await collected(studio, visitor, selfies))
        choice = await visitor.find_template(load_templates().templates[0].template_id)
        with studio.paused_worker():
            drawing = await visitor.order(choice, "use")
            await visitor.person.block()
        async with asyncio.timeout(LIMIT_S):
            while await studio.status(drawing) is not JobStatus.SUCCEEDED:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        since = len(visitor.person.seen)
        await visitor.person.say("/results")
        await visitor.person.wait_message(lambda m: find_button(m, "original") is not None, LIMIT_S, since=since)
    assert studio.bot.poll() is None


async def test_the_bot_ends_fast_when_asked(studio: Studio) -> None:
    studio.start_bot()
    async with studio.visitor() as visitor:
        await visitor.begin()
    loop = asyncio.get_running_loop()
    start = loop.time()
    studio.bot.terminate()
    assert await asyncio.to_thread(studio.bot.wait, 60) == 0
    assert loop.time() - start < 20  # three seconds on a machine that does nothing else; the poll under way takes 25
