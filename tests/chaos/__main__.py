"""`python -m tests.chaos`: rounds of people at a studio in which everything is killed, paused and cut off by schedule.

    --seed N       what goes wrong when, and what people do (default: 1)
    --minutes M    how long, or --hours H (default: 10 minutes)
    --only N       one round by its number, as a failed run names it

Exit code 1 when anything was lost, shown twice or left behind; the table names seed, round and log folder.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.rounds import Run, Totals


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--hours", type=float)
    parser.add_argument("--users", type=int, default=7)
    parser.add_argument("--round-s", type=float, default=80, help="seconds of faults per round")
    parser.add_argument("--every-s", type=float, default=4, help="mean seconds between two faults")
    parser.add_argument("--only", type=int, help="play this round and no other")
    parser.add_argument("--logs", type=Path, help="folder for the logs; those of good rounds are deleted")
    parser.add_argument("--keep", action="store_true", help="keep the logs of good rounds too")
    chosen = parser.parse_args()
    logs = chosen.logs or Path(tempfile.mkdtemp(prefix="chaos-"))
    logs.mkdir(parents=True, exist_ok=True)
    seconds = chosen.hours * 3600 if chosen.hours else chosen.minutes * 60
    run = Run(chosen.seed, chosen.users, chosen.round_s, chosen.every_s, logs, chosen.keep)
    began = time.monotonic()
    totals = asyncio.run(run.play(seconds, chosen.only))
    print(totals.table(chosen.seed, time.monotonic() - began))
    return _verdict(totals, logs, keeps_logs=chosen.keep)


def _verdict(totals: Totals, logs: Path, *, keeps_logs: bool) -> int:
    if not totals.violations:
        if not keeps_logs:
            shutil.rmtree(logs, ignore_errors=True)
        return 0
    for number, what in totals.violations:
        print(f"round {number}: {what}", file=sys.stderr)
    print(f"logs: {logs}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
