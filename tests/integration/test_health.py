"""The pages that watch bot and worker, and what the logs do not say."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from bot.chat import ChatError
from bot.db.database import open_engine
from bot.dialogue import Asked, SentPicture
from bot.health import PortTaken, health_page
from bot.logs import set_up_logs
from bot.replies import Choice
from gpu_worker.contract.jobs import worker_key
from tests.bot_bench import ANNA, BotBench, bot_bench
from tests.fakes import jpeg
from tests.integration.conftest import Workers
from tests.valkey import ValkeyServer
from tests.worker_bench import Bench


@pytest.fixture
async def studio(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}"
    async with bot_bench(url, valkey.url, tmp_path, health_port=0) as made:
        yield made


async def got(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as client, client.get(url) as answer:
        return answer.status, await answer.text()


def samples(page: str) -> dict[str, float]:
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in page.splitlines() if line[0] != "#"}


async def test_the_bot_says_whether_it_lives_and_can_work(studio: BotBench, valkey: ValkeyServer) -> None:
    async with health_page(studio.parts, frozenset({"telegram", "discord"})) as page:
        assert (await got(f"{page}/healthz"))[0] == 200
        status, said = await got(f"{page}/readyz")
        assert status == 503
        assert json.loads(said) == {"database": "ok", "queue": "ok", "discord": "away", "telegram": "ok"}
    async with health_page(studio.parts, frozenset({"telegram"})) as page:
        assert (await got(f"{page}/readyz"))[0] == 200
        valkey.stop()
        status, said = await got(f"{page}/readyz")
        assert (status, json.loads(said)["queue"]) == (503, "away")
        assert (await got(f"{page}/healthz"))[0] == 200, "it lives and waits"
        assert (await got(f"{page}/metrics"))[0] == 200


async def test_numbers_of_a_visit(studio: BotBench) -> None:
    await studio.train()
    await studio.portrait()
    studio.worker.fail_with = {"kind": "permanent", "reason": "engine_died"}
    await studio.press(Choice("use", studio.parts.templates.templates[0].template_id))
    await studio.settle()
    studio.chat.fail.append(ChatError("no", is_permanent=False))
    await studio.ask("help")
    await studio.hear(Asked("help"), event_id="same")
    await studio.hear(Asked("help"), event_id="same")
    await studio.ask("train")
    await studio.photos(5, first=30)
    await studio.parts.tasks.settle()
    key = worker_key("w1")
    said = {"profile": "mini", "device": "cpu", "version": "1", "state": "ready", "master_key": "x"}
    await studio.parts.queue.redis.hset(key, mapping=said)
    async with health_page(studio.parts, frozenset()) as page:
        _, metrics = await got(f"{page}/metrics")
    found = samples(metrics)
    assert found['portrait_jobs{kind="train",state="succeeded"}'] == 1
    assert found['portrait_jobs{kind="inspect",state="queued"}'] == 1
    assert found["portrait_queue_length"] == 0
    assert found['portrait_job_seconds_count{kind="portrait"}'] == 1
    assert found['portrait_job_waiting_seconds_count{kind="portrait"}'] == 2
    assert found['portrait_job_failures_total{kind="portrait",reason="engine_died"}'] == 1
    assert found['portrait_delivery_refusals_total{how="for_now",platform="telegram"}'] == 1
    assert found['portrait_updates_total{outcome="repeated",platform="telegram"}'] == 1
    assert found['portrait_workers{device="cpu",profile="mini",state="ready",version="1"}'] == 1
    assert found['portrait_stored{what="portraits"}'] == 1
    names = set(re.findall(r'(\w+)="', metrics))
    assert names <= {
        "kind",
        "state",
        "reason",
        "how",
        "platform",
        "outcome",
        "device",
        "profile",
        "version",
        "what",
        "le",
    }
    assert ANNA.person not in re.findall(r'="([^"]*)"', metrics), "numbers name nobody"


async def test_a_port_that_is_taken_is_said(studio: BotBench) -> None:
    async with health_page(studio.parts, frozenset()) as page:
        assert page
        taken = studio.parts.settings.model_copy(update={"health_port": int(page.rpartition(":")[2])})
        studio.parts.settings = taken
        with pytest.raises(PortTaken, match="in use"):
            async with health_page(studio.parts, frozenset()):
                pass


async def test_a_worker_says_when_it_takes_jobs_and_counts_them(
    bench: Bench, workers: Workers, unused_tcp_port: int
) -> None:
    workers.start(bench.server, health_port=str(unused_tcp_port))
    page, seen = f"http://127.0.0.1:{unused_tcp_port}", set[int]()
    async with asyncio.timeout(90):
        while 200 not in seen:
            try:
                seen.add((await got(f"{page}/readyz"))[0])
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
    job = await bench.inspect()
    await bench.enqueue(job)
    await bench.outcome(job)
    await bench.until_arq_forgot(job)
    found = samples((await got(f"{page}/metrics"))[1])
    assert found['portrait_worker_jobs_total{kind="inspect",outcome="succeeded"}'] == 1
    assert found["portrait_worker_busy"] == 0
    assert found['portrait_worker{device="auto",profile="mini",version="0.1.0"}'] == 1
    assert (await got(f"{page}/healthz"))[0] == 200


async def test_logs_hold_no_names_no_photos_and_no_words_of_people(
    studio: BotBench, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    set_up_logs("json", "DEBUG")
    try:
        await studio.train()
        await studio.type("Xanadu Xaviera")
        await studio.ask("portrait", "Xanadu Xaviera")
        await studio.portrait()
        await studio.hear(SentPicture(b"Xanadu is no picture"))

        async def broken(*_: object) -> None:
            raise RuntimeError("broken on purpose")

        monkeypatch.setattr(studio.parts.intake, "take", broken)
        await studio.ask("train")
        await studio.hear(SentPicture(jpeg(1)))
    finally:
        root.handlers, level = before, logging.WARNING
        root.setLevel(level)
        logging.getLogger("bot").setLevel(logging.NOTSET)
    written = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    ours = [line for line in written if line["logger"].startswith("bot")]
    assert [line for line in ours if "traceback" in line and "broken on purpose" in line["traceback"]]
    assert {"at", "level", "logger", "message"} <= set(ours[0])
    for line in ours:
        said = json.dumps(line)
        assert "Xanadu" not in said
        assert "JFIF" not in said
        assert f'"{ANNA.person}"' not in said


async def test_an_error_of_the_database_does_not_tell_what_was_to_be_written(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite+aiosqlite:///{tmp_path / 'x.sqlite3'}")
    async with engine.connect() as connection:
        with pytest.raises(SQLAlchemyError) as caught:
            await connection.execute(text("INSERT INTO nowhere VALUES (:name)"), {"name": "Xanadu"})
    await engine.dispose()
    assert "Xanadu" not in str(caught.value)
