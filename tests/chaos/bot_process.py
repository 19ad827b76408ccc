"""`python -m tests.chaos.bot_process`: the bot as `python -m bot` runs it, with a clock that can be put wrong.

The clock's error in seconds is what the file named by CHAOS_CLOCK holds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from bot.app import StartFailure, run
from bot.parts import utc_now
from bot.settings import Settings

CLOCK = "CHAOS_CLOCK"


def wrong_clock(path: Path) -> datetime:
    try:
        return utc_now() + timedelta(seconds=float(path.read_text() or 0))
    except (FileNotFoundError, ValueError):
        return utc_now()


async def main() -> int:
    settings, stop, path = Settings(), asyncio.Event(), Path(os.environ[CLOCK])
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await run(settings, stop, clock=lambda: wrong_clock(path))
    except StartFailure as failure:
        with suppress(OSError):
            os.write(2, f"{failure}\n".encode())
        os._exit(69)  # where the disk is full the log cannot be flushed, and that would end it with another code
    return 0


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    sys.exit(asyncio.run(main()))
