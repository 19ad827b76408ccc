"""`python -m bot chat`: the studio as a chat page on this machine, for a person to talk to."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bot.app import StartFailure
from bot.embedded import ServiceFailure
from bot.keys import NoMasterKey
from bot.sandbox.local import local_studio

PORT = 8765
CANNOT_START = 69  # EX_UNAVAILABLE


def main(arguments: Sequence[str] | None = None) -> int:
    """Until Ctrl-C; a start that fails is a sentence."""
    parser = argparse.ArgumentParser(prog="python -m bot chat", description="The bot as a chat page on this machine.")
    parser.add_argument("--port", type=int, default=PORT, help=f"port on 127.0.0.1 (default: {PORT}; 0: any)")
    parser.add_argument("--data", type=Path, default=Path("data/chat"), help="folder that keeps everything")
    options = parser.parse_args(arguments)
    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_serve(options.data, options.port))
    except (StartFailure, ServiceFailure, NoMasterKey) as failure:
        sys.stderr.write(f"{failure}\n")
        return CANNOT_START
    except OSError as error:
        sys.stderr.write(f"Port {options.port} cannot be used: {error.strerror}. Choose another with --port.\n")
        return CANNOT_START
    return 0


async def _serve(folder: Path, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with local_studio(folder, port=port) as studio:
        sys.stdout.write(f"\n  The studio is open: {studio.url}\n  Everything stays in {folder}. Ctrl-C ends it.\n\n")
        sys.stdout.flush()
        await stop.wait()
        sys.stdout.write("Closing.\n")
