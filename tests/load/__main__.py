"""`python -m tests.load`: what the bot bears. Prints tables; ends with 1 when a bound is broken.

--people 200 --updates 10000    one bot process, a stand-in engine
--jobs 1000000                  the place in the queue with so many jobs, on SQLite and PostgreSQL
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from bot.db.database import Database, open_engine
from bot.db.migrate import upgrade
from tests.integration.postgres import make_database
from tests.load.many_jobs import QUESTIONS, fill, timed
from tests.load.people import Measured, growth, measure, quantile
from tests.valkey import ValkeyServer

ANSWER_P95_S = 1.0
PLACE_P95_MS = 10.0
GROWTH_MIB = 1.0  # per 1000 updates
TIMES = 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--think", type=float, default=8.0, help="mean seconds between two things that a person does")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    options = parser.parse_args()
    _say(f"{os.cpu_count()} processors, load average before: {os.getloadavg()[0]:.1f}\n")
    broken: list[str] = []
    if options.jobs:
        broken += asyncio.run(_databases(options.jobs))
    if options.people:
        broken += asyncio.run(_people(options.people, options.updates, options.think))
    _say(f"load average after: {os.getloadavg()[0]:.1f}\n")
    for what in broken:
        _say(f"BROKEN: {what}\n")
    return 1 if broken else 0


async def _databases(jobs: int) -> list[str]:
    broken = []
    _say(f"| {jobs} jobs, ms | SQLite median | p95 | worst | PostgreSQL median | p95 | worst |\n")
    _say("|---|---|---|---|---|---|---|\n")
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        urls = [f"sqlite+aiosqlite:///{folder}/bot.sqlite3", await make_database(f"load_{int(time.time())}")]
        engines = [open_engine(url) for url in urls]
        for url, engine in zip(urls, engines, strict=True):
            await asyncio.to_thread(upgrade, url)
            await fill(engine, jobs)
        for name, question in QUESTIONS.items():
            cells = []
            for engine in engines:
                timing = await timed(Database(engine), question, TIMES)
                cells.append(f"{timing.median:.1f} | {timing.p95:.1f} | {timing.worst:.1f}")
                if name == "place in the queue" and timing.median > PLACE_P95_MS:
                    broken.append(f"the place in the queue takes {timing.median:.1f} ms ({engine.dialect.name})")
            _say(f"| {name} | {' | '.join(cells)} |\n")
        for engine in engines:
            await engine.dispose()
    return broken


async def _people(people: int, updates: int, think_s: float) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="load-") as folder, tempfile.TemporaryDirectory(prefix="vk") as redis:
        valkey = ValkeyServer(Path(redis))
        valkey.start()
        try:
            measured = await measure(Path(folder), valkey, people, updates, think_s)
        finally:
            valkey.stop()
    return _report(measured, people)


def _report(measured: Measured, people: int) -> list[str]:
    rate = measured.updates / measured.seconds
    _say(f"\n{people} people, {measured.updates} updates in {measured.seconds:.0f} s ({rate:.0f} a second); ")
    _say(f"{1000 * measured.processor_s / measured.updates:.1f} ms of the bot's processor time for each, ")
    _say(
        f"{1000 * measured.own_processor_s / measured.updates:.1f} ms of this program's (people, Telegram's server)\n\n"
    )
    _say("| answer to | count | median, s | p95, s | p99, s | worst, s |\n|---|---|---|---|---|---|\n")
    broken = []
    for kind, times in measured.answers.items():
        cells = " | ".join(f"{quantile(times, share):.2f}" for share in (0.5, 0.95, 0.99, 1.0))
        _say(f"| {kind} | {len(times)} | {cells} |\n")
        if kind != "photos" and quantile(times, 0.95) > ANSWER_P95_S:
            broken.append(f"p95 of the answer to a {kind} is {quantile(times, 0.95):.2f} s")
    means = [sum(times) / len(times) for times in measured.by_person.values()]
    _say(f"\nmean answer by person: {quantile(means, 0.5):.2f} s for the median person, ")
    _say(f"{quantile(means, 1.0):.2f} s for the worst served of {len(means)}\n")
    slope = growth(measured.memory)
    first, middle, last = (measured.memory[i][1] for i in (0, len(measured.memory) // 2, -1))
    _say(f"\nunanswered: {len(measured.unanswered)} {measured.unanswered[:5]}\n")
    _say(f"memory of the bot: {first:.0f} MiB at the start, {middle:.0f} half-way, {last:.0f} at the end; ")
    _say(f"{slope:+.2f} MiB per 1000 updates over the second half\n")
    if measured.unanswered:
        broken.append(f"{len(measured.unanswered)} updates were not answered")
    if slope > GROWTH_MIB:
        broken.append(f"memory grows by {slope:.2f} MiB per 1000 updates")
    return broken


def _say(words: str) -> None:
    sys.stdout.write(words)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
