"""What is fed, and how a run of it is counted."""

from __future__ import annotations

import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from types import FrameType
from typing import Any, Protocol


class Hang(BaseException):
    """One input took too long. Not an Exception, so that nothing on the way catches it."""


class Target(Protocol):
    """One place where bytes of strangers arrive."""

    name: str
    longest_s: float  # an input that takes longer is a hang

    def make(self, draw: Random) -> Any:
        """An input."""
        ...

    def feed(self, made: Any) -> str:
        """Lets the program deal with it and checks what came out; how it was dealt with. Raises for a fault."""
        ...

    def close(self) -> None: ...


@dataclass
class Tally:
    """What a run of one target has shown. Times in seconds of the wall clock."""

    name: str
    fed: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    longest_number: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        if other.longest > self.longest:
            self.longest, self.longest_number = other.longest, other.longest_number
        self.fed, self.seconds = self.fed + other.fed, self.seconds + other.seconds
        self.outcomes.update(other.outcomes)
        self.crashes += other.crashes
        self.hangs += other.hangs


def made_by(target: Target, seed: int, number: int) -> Any:
    """Input `number` of a target: always the same for the same seed."""
    return target.make(Random(f"{seed}/{target.name}/{number}"))


def feed_all(target: Target, seed: int, numbers: range) -> Tally:
    """Feeds these inputs one after the other; a fault is noted and the run goes on."""
    tally = Tally(target.name)
    began = time.perf_counter()
    for number in numbers:
        made = made_by(target, seed, number)
        begin = time.perf_counter()
        try:
            with _at_most(target.longest_s):
                tally.outcomes[target.feed(made)] += 1
        except Hang:
            tally.hangs.append(f"{target.name} {number}")
        except Exception:
            tally.crashes.append(f"{target.name} {number}: {traceback.format_exc(limit=-4)}")
        took = time.perf_counter() - begin
        tally.fed += 1
        if took > tally.longest:
            tally.longest, tally.longest_number = took, number
    tally.seconds = time.perf_counter() - began
    return tally


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def give_up(_: int, __: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
