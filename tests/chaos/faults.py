"""What goes wrong, and when: a schedule that follows from the seed, and how each fault is played."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.chaos.links import State
from tests.chaos.town import Plan, Town, descendants

WORKERS = ("worker-1", "worker-2")


@dataclass(frozen=True)
class Fault:
    """`at_s` after the round's start; `for_s`: until it is put right (for a kill: until it is started again)."""

    at_s: float
    kind: str
    on: str
    for_s: float = 0.0
    amount: float = 0.0

    def __str__(self) -> str:
        return f"{self.at_s:6.1f} s  {self.kind} {self.on}" + (f" for {self.for_s:.1f} s" if self.for_s else "")


# kind, what it is played on, weight, shortest and longest time in seconds
_REPERTOIRE: list[tuple[str, tuple[str, ...], float, tuple[float, float]]] = [
    ("kill", ("bot",), 5, (0.0, 4)),
    ("kill", WORKERS, 5, (0.0, 4)),
    ("kill", ("engine of worker-1", "engine of worker-2"), 2, (0, 0)),
    ("kill", ("decoder",), 1, (0, 0)),
    ("kill", ("valkey",), 3, (0.2, 4)),
    ("kill", ("postgresql",), 3, (0.2, 4)),
    ("kill", ("connection of postgresql",), 2, (0, 0)),
    ("stop", ("bot",), 1, (0.0, 3)),
    ("stop", WORKERS, 1, (0.0, 3)),
    ("stop", ("platform",), 1, (0.3, 3)),
    ("pause", ("bot",), 2, (1, 8)),
    ("pause", WORKERS, 3, (1, 9)),
    ("pause", ("engine of worker-1", "engine of worker-2"), 1, (1, 6)),
    ("pause", ("valkey",), 1, (0.5, 6)),
    ("pause", ("platform",), 1, (0.5, 6)),
    ("flush", ("valkey",), 3, (0, 0)),
    ("slow", ("bot-valkey", "worker-1-valkey", "worker-2-valkey", "bot-telegram", "bot-postgres"), 2, (2, 8)),
    ("silent", ("bot-valkey", "worker-1-valkey", "worker-2-valkey", "bot-telegram", "bot-postgres"), 2, (1, 8)),
    ("cut", ("bot-valkey", "worker-1-valkey", "worker-2-valkey", "bot-telegram", "bot-postgres"), 4, (0.1, 6)),
    ("full disk", ("bot", *WORKERS), 2, (1, 8)),
    ("clock", ("bot",), 1, (3, 20)),
    ("refuse", ("429", "502", "500"), 2, (0, 0)),
]
_REFUSED = ("sendMessage", "sendPhoto", "editMessageText", "editMessageMedia", "editMessageCaption", "getFile")


def schedule(rng: random.Random, plan: Plan, length_s: float, every_s: float) -> list[Fault]:
    """One fault every `every_s` seconds on average; now and then two at once."""
    acts = [act for act in _REPERTOIRE if plan.database != "sqlite" or "postgres" not in " ".join(act[1])]
    faults, at_s = [], rng.uniform(2, 5)
    while at_s < length_s:
        kind, targets, _, (shortest, longest) = rng.choices(acts, [act[2] for act in acts])[0]
        on = rng.choice([t for t in targets if plan.database != "sqlite" or "postgres" not in t])
        faults.append(Fault(at_s, kind, on, rng.uniform(shortest, longest), rng.choice([-7200, -90, 90, 7200])))
        at_s += 0.05 if rng.random() < 0.15 else rng.expovariate(1 / every_s)
    return faults


class Mischief:
    """Plays a schedule. `played` counts; `log` says when which process could not do its work."""

    def __init__(self, town: Town, rng: random.Random) -> None:
        self._town, self._rng = town, rng
        self.played: Counter[str] = Counter()
        self.log: list[tuple[float, float, Fault, int | None]] = []  # begin, end, what, the process that it hit
        self._running: set[asyncio.Task[None]] = set()
        self._one_crash_at_a_time = asyncio.Lock()

    async def play(self, faults: list[Fault]) -> None:
        begin = time.monotonic()
        for fault in faults:
            await asyncio.sleep(max(0, begin + fault.at_s - time.monotonic()))
            task = asyncio.create_task(self._play(fault))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        while self._running:
            await asyncio.wait(set(self._running))

    async def _play(self, fault: Fault) -> None:
        began = time.time()
        pid = self._process(fault)
        play = {
            "kill": self._kill,
            "stop": self._kill,
            "pause": self._pause,
            "flush": self._flush,
            "full disk": self._full_disk,
            "clock": self._clock,
            "refuse": self._refuse,
        }.get(fault.kind, self._link)
        if await play(fault, pid):
            self.played[f"{fault.kind} {fault.on}".replace("-1", "").replace("-2", "")] += 1
            self.log.append((began, time.time(), fault, pid))

    def _process(self, fault: Fault) -> int | None:
        town, on = self._town, fault.on
        if on in town.daemons:
            return town.daemons[on].pid
        if on.startswith("engine of "):
            parent = town.daemons[on.removeprefix("engine of ")].pid
            engines = [pid for pid, command in descendants(parent or 0) if "engine_child" in command]
            return self._rng.choice(engines) if engines else None
        if on == "decoder":
            found = [pid for pid, command in descendants(town.daemons["bot"].pid or 0) if "decoder" in command]
            return self._rng.choice(found) if found else None
        if on == "connection of postgresql" and town.postgres:
            with suppress(OSError, ValueError):
                found = town.postgres.backends()
                return self._rng.choice(found) if found else None
        return None

    async def _kill(self, fault: Fault, pid: int | None) -> bool:
        number = signal.SIGKILL if fault.kind == "kill" else signal.SIGTERM
        if fault.on == "postgresql":
            return await self._crash_postgres(fault)
        if pid is None:
            return False
        if fault.on in self._town.daemons:
            self._town.daemons[fault.on].signal(number, back_in_s=fault.for_s)
            await asyncio.sleep(fault.for_s)
            return True
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        return True

    async def _crash_postgres(self, fault: Fault) -> bool:
        postgres = self._town.postgres
        assert postgres is not None
        async with self._one_crash_at_a_time:
            with suppress(OSError, ValueError):
                postgres.crash()
            await asyncio.sleep(fault.for_s)
            for _ in range(20):
                try:
                    await asyncio.to_thread(postgres.start)
                    return True
                except Exception:
                    await asyncio.sleep(0.5)
        raise RuntimeError("PostgreSQL does not come back")

    async def _pause(self, fault: Fault, pid: int | None) -> bool:
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(fault.for_s)
            os.kill(pid, signal.SIGCONT)
        return True

    async def _flush(self, fault: Fault, _: int | None) -> bool:
        redis = Redis.from_url(f"unix://{self._town.valkey_socket}", socket_timeout=1)
        try:
            await redis.flushall()
        except (RedisError, OSError):
            return False
        finally:
            await redis.aclose()
        return True

    async def _full_disk(self, fault: Fault, pid: int | None) -> bool:
        if pid is None:
            return False
        self._town.full_disk(fault.on, is_full=True)
        await asyncio.sleep(fault.for_s)
        self._town.full_disk(fault.on, is_full=False)
        return True

    async def _clock(self, fault: Fault, _: int | None) -> bool:
        self._town.clock.write_text(str(fault.amount))
        await asyncio.sleep(fault.for_s)
        self._town.clock.write_text("0")
        return True

    async def _refuse(self, fault: Fault, _: int | None) -> bool:
        """The platform answers a few calls with an error: too many, or its own trouble."""
        for method in self._rng.sample(_REFUSED, 3):
            what = {"method": method, "error_code": int(fault.on), "description": "played", "times": 2}
            if fault.on == "429":
                what |= {"description": "Too Many Requests: retry after 2", "retry_after": 2}
            try:
                limit = aiohttp.ClientTimeout(total=2)
                async with aiohttp.ClientSession(timeout=limit) as http:
                    await http.post(f"{self._town.platform_url}/sandbox/faults", json=what)
            except (aiohttp.ClientError, OSError):
                return False
        return True

    async def _link(self, fault: Fault, _: int | None) -> bool:
        link = self._town.links.get(fault.on)
        if link is None or link.state != "whole":
            return False
        states: dict[str, State] = {"slow": "slow", "silent": "silent", "cut": "cut"}
        link.delay_s = self._rng.uniform(0.05, 0.5)
        await link.become(states[fault.kind])
        await asyncio.sleep(fault.for_s)
        await link.become("whole")
        return True
