"""Cases of the fault list that need more than one test bench; docs/reliability.md says which test plays which case."""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bot import replies as r
from bot.replies import Choice
from gpu_worker.contract.jobs import PORTRAIT_QUEUE
from tests.bot_bench import BotBench, bot_bench
from tests.chaos.town import Postgres
from tests.conftest import ROOT
from tests.integration.conftest import Workers, bench, lasting_bench, lasting_valkey, valkey, workers
from tests.valkey import ValkeyServer
from tests.worker_bench import Bench

__all__ = ["bench", "lasting_bench", "lasting_valkey", "valkey", "workers"]

_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = Postgres(folder)
    yield server
    server.start()
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def bot(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    async with bot_bench(f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}", valkey.url, tmp_path) as made:
        yield made


@pytest.mark.slow
async def test_a_postgresql_that_crashes_costs_no_command(
    postgres: Postgres, valkey: ValkeyServer, tmp_path: Path
) -> None:
    await postgres.make_database("chaos_case")
    async with bot_bench(postgres.url("chaos_case"), valkey.url, tmp_path) as made:
        await made.ask("start")
        asking = [asyncio.create_task(made.ask("help")) for _ in range(5)]
        await asyncio.sleep(0.02)
        postgres.crash()
        asking += [asyncio.create_task(made.ask("help")) for _ in range(5)]
        await asyncio.sleep(1)
        await asyncio.to_thread(postgres.start)
        await asyncio.gather(*asking)
        await made.bot.reconciler.tick()  # an answer to a commit may have been lost
        assert made.chat.sent(r.Help) >= 10
        assert made.chat.sent(r.Apology) == 0


async def test_a_disk_that_is_full_while_a_worker_stores_costs_time_and_no_step(bench: Bench, workers: Workers) -> None:
    worker = workers.start(bench.server)
    job = await bench.train("take 60")
    await bench.enqueue(job)
    await bench.step(job, 20)
    _, hard = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (0, hard))
    await bench.step(job, 60)
    await asyncio.sleep(1.5)
    assert await bench.outcomes(job) == []
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (hard, hard))
    succeeded = await bench.outcome(job)
    assert succeeded.event == "succeeded"
    assert (succeeded.run, succeeded.result.steps) == (1, 60)


async def test_two_presses_of_start_at_once_are_one_training(bot: BotBench) -> None:
    await bot.collect()
    await asyncio.gather(*(bot.push(r.CollectingPhotos, "start") for _ in range(3)))
    await bot.settle()
    assert [job.kind for job in bot.worker.done].count("train") == 1
    assert bot.chat.sent(r.SubjectReady) == 1


async def test_a_template_that_is_deleted_takes_the_portraits_that_wait_for_it_along(bot: BotBench) -> None:
    await bot.train()
    await bot.press(Choice("own_template"))
    await bot.photos(1, first=50)
    await bot.settle()
    template = bot.chat.last(r.OwnTemplateReady).template
    await bot.push(r.OwnTemplateReady, "use")
    await bot.press(Choice("delete_template", template.template_id))
    await bot.settle()
    await bot.bot.reconciler.tick()
    assert bot.chat.last(r.Cancelled) == r.Cancelled("portrait")
    assert bot.chat.sent(r.PortraitsReady) == 0
    assert not await bot.parts.queue.redis.zcard(PORTRAIT_QUEUE)


def test_every_test_that_the_list_of_cases_names_is_there() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    cases = text.partition("## Fault cases")[2].partition("\n## ")[0]
    named = _NAMED.findall(cases)
    rows = re.findall(r"^\| (\d+) \|", cases, re.MULTILINE)
    assert [int(number) for number in rows] == list(range(1, 22))
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text("utf-8")]
    assert not missing
