"""`python -m tests.fuzz --inputs 1000000 --seed 1`: feeds every place where bytes of strangers arrive, and counts.

python -m tests.fuzz --target picture --seed 1 --number 4711    one input again, with its traceback
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.fuzz.run import run
from tests.fuzz.target import Tally, made_by
from tests.fuzz.targets import SHARES, make_target


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--target", choices=sorted(SHARES), action="append", help="only this one (may be repeated)")
    parser.add_argument("--number", type=int, help="feed this one input of the target, and let its error through")
    options = parser.parse_args()
    names = options.target or list(SHARES)
    if options.number is not None:
        return _again(names[0], options.seed, options.number)
    tallies = run(options.inputs, options.seed, options.processes, names)
    _print(tallies, options.seed)
    return 1 if any(tally.crashes or tally.hangs for tally in tallies) else 0


def _again(name: str, seed: int, number: int) -> int:
    target = make_target(name)
    made = made_by(target, seed, number)
    sys.stdout.write(f"{made!r}\n"[:10_000])
    sys.stdout.write(f"{target.feed(made)}\n")
    target.close()
    return 0


def _print(tallies: list[Tally], seed: int) -> None:
    whole = Tally("all")
    for tally in tallies:
        whole.add(tally)
    lines = [
        f"seed {seed}",
        "| what | inputs | crashes | hangs | longest, ms | seconds | outcomes |",
        "|---|---|---|---|---|---|---|",
    ]
    for tally in [*tallies, whole]:
        outcomes = (
            ", ".join(f"{what} {count}" for what, count in tally.outcomes.most_common()) if tally is not whole else ""
        )
        counts = f"{tally.fed} | {len(tally.crashes)} | {len(tally.hangs)}"
        lines.append(f"| {tally.name} | {counts} | {tally.longest * 1000:.0f} | {tally.seconds:.0f} | {outcomes} |")
    for fault in (*whole.crashes, *whole.hangs):
        lines.append(fault)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
