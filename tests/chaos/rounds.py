"""Rounds: build a town, let people in and things go wrong, wait until it is quiet, look at everything, tear it down."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from bot.app import open_bot
from bot.settings import Settings
from tests.chaos.checks import Findings, Look, Reckoning
from tests.chaos.faults import Fault, Mischief, schedule
from tests.chaos.people import Visitor
from tests.chaos.town import Plan, Postgres, Town, adopt_orphans

QUIET_WITHIN_S = 150.0
STAYS_QUIET_S = 2.0
PLANS = (Plan("sqlite", True), Plan("postgresql", False), Plan("sqlite", False), Plan("postgresql", True))


@dataclass
class Totals:
    rounds: int = 0
    users: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[int, str]] = field(default_factory=list)
    quiet_s: list[float] = field(default_factory=list)

    def table(self, seed: int, seconds: float) -> str:
        lost = sum("LOST" in what for _, what in self.violations)
        twice = sum("SHOWN TWICE" in what for _, what in self.violations)
        by_kind: Counter[str] = Counter()
        for name, count in self.faults.items():
            by_kind[name] += count
        lines = [
            f"seed {seed}, {seconds / 60:.0f} minutes, {self.rounds} rounds",
            "",
            "| what | count |",
            "|---|---|",
            f"| users | {self.users} |",
            f"| things that people did | {sum(self.acts.values())} |",
            f"| faults played | {sum(self.faults.values())} |",
            *(f"| … {name} | {count} |" for name, count in sorted(by_kind.items())),
            *(f"| {name} | {count} |" for name, count in sorted(self.counts.items())),
            f"| seconds until quiet, median and longest | {_median(self.quiet_s):.0f}, "
            f"{max(self.quiet_s, default=0):.0f} |",
            f"| **lost** | **{lost}** |",
            f"| **shown twice** | **{twice}** |",
            f"| **violations in all** | **{len(self.violations)}** |",
        ]
        return "\n".join(lines)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


@dataclass
class Run:
    seed: int
    users: int
    round_s: float
    every_s: float
    logs: Path
    keeps_logs: bool = False
    totals: Totals = field(default_factory=Totals)

    async def play(self, seconds: float, only: int | None = None) -> Totals:
        adopt_orphans()
        postgres, folder = None, None
        with suppress(ImportError):
            folder = tempfile.mkdtemp(prefix="pg")
            postgres = await asyncio.to_thread(Postgres, Path(folder))
        try:
            deadline, number = time.monotonic() + seconds, only or 0
            while True:
                await self.round(number, postgres, min(self.round_s, max(10.0, deadline - time.monotonic() - 30)))
                number += 1
                if only is not None or time.monotonic() > deadline - 20:
                    return self.totals
        finally:
            if postgres is not None:
                await asyncio.to_thread(postgres.stop)
            if folder:
                shutil.rmtree(folder, ignore_errors=True)

    async def round(self, number: int, postgres: Postgres | None, length_s: float) -> Findings:
        rng = random.Random(f"{self.seed}/{number}")
        plan = PLANS[number % len(PLANS)]
        if postgres is None:
            plan = Plan("sqlite", plan.keeps)
        # A unix socket's path is short.
        folder = Path(tempfile.mkdtemp(prefix="town-"))
        town = Town(folder, plan, postgres, f"s{self.seed}_r{number}_{random.randrange(10**9)}")
        faults = schedule(rng, plan, length_s, self.every_s)
        (folder / "schedule.txt").write_text("\n".join(map(str, faults)))
        findings = Findings()
        try:
            await town.open()
            findings = await self._open_town(town, rng, faults, length_s)
        except Exception as error:
            findings.wrong(f"the round broke off: {type(error).__name__}: {error}")
            if not isinstance(error, TimeoutError):
                import traceback

                traceback.print_exc()
        finally:
            await town.end()
        self._count(number, plan, findings)
        if findings.violations or self.keeps_logs:
            (folder / "violations.txt").write_text("\n".join(findings.violations))
            shutil.move(folder, self.logs / f"seed{self.seed}-round{number}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        return findings

    async def _open_town(self, town: Town, rng: random.Random, faults: list[Fault], length_s: float) -> Findings:
        mischief = Mischief(town, random.Random(rng.random()))
        visitors = [Visitor(town.platform_url, n, random.Random(rng.random())) for n in range(self.users)]
        until = time.monotonic() + length_s
        living = [asyncio.create_task(visitor.live(until)) for visitor in visitors]
        try:
            await mischief.play(faults)
            await asyncio.wait(living, timeout=max(0.0, until - time.monotonic()) + 5)
        finally:
            for task in living:
                task.cancel()
            await asyncio.gather(*living, return_exceptions=True)
        await town.heal()
        self.totals.faults += mischief.played
        self.totals.users += len(visitors)
        for visitor in visitors:
            self.totals.acts += visitor.ledger.acts
        look = Look(town)
        try:
            unrest = await self._until_quiet(look)
            reckoning = Reckoning(town, look, visitors, mischief)
            if unrest:
                reckoning.findings.wrong(f"not quiet after {QUIET_WITHIN_S:.0f} s: {', '.join(unrest)}")
            await reckoning.all()
            codes = await town.close()
            await sweep(town)
            await reckoning.after_the_sweep()
            reckoning.after_the_end(codes)
            return reckoning.findings
        finally:
            await look.close()

    async def _until_quiet(self, look: Look) -> list[str]:
        began, quiet_since = time.monotonic(), None
        unrest = ["nothing was looked at"]
        while time.monotonic() < began + QUIET_WITHIN_S:
            try:
                unrest = await look.unrest()
            except Exception as error:
                unrest = [f"the database is away: {error}"]
            quiet_since = None if unrest else quiet_since or time.monotonic()
            if quiet_since and time.monotonic() - quiet_since > STAYS_QUIET_S:
                self.totals.quiet_s.append(quiet_since - began)
                return []
            await asyncio.sleep(0.5)
        return unrest

    def _count(self, number: int, plan: Plan, findings: Findings) -> None:
        self.totals.rounds += 1
        self.totals.counts += findings.counts
        self.totals.violations += [(number, what) for what in findings.violations]
        verdict = f"{len(findings.violations)} violations" if findings.violations else "good"
        kind = f"{plan.database}, Valkey {'with' if plan.keeps else 'without'} persistence"
        quiet = f"quiet after {self.totals.quiet_s[-1]:.0f} s" if self.totals.quiet_s else "never quiet"
        print(f"{time.strftime('%T')} round {number} ({kind}): {verdict}, {quiet}", flush=True)
        for what in findings.violations:
            print(f"    {what}", file=sys.stderr, flush=True)


async def sweep(town: Town) -> None:
    """The bot's hourly look for stray blobs, twice: it deletes what it sees a second time."""
    wanted = town.settings() | {"database_url": SecretStr(town.database_url)}
    wanted |= {"master_key": SecretStr(town.master_key)}
    wanted |= {"redis_url": SecretStr(f"unix://{town.valkey_socket}"), "telegram_token": None}
    settings = Settings(_env_file=None, **wanted)  # type: ignore[call-arg]
    async with open_bot(settings) as bot:
        await bot.retention.sweep_blobs()
        await bot.retention.sweep_blobs()
