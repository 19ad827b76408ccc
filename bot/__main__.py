"""`python -m bot`: the bot. `… check`: is all there? `… keys`: master keys. `… demo`, `… chat`: without tokens."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from pydantic import SecretStr

from bot.app import StartFailure, frontends_of, run
from bot.embedded import ServiceFailure, embedded_services
from bot.health import PortTaken
from bot.keys import NoMasterKey, master_keys
from bot.logs import set_up_logs
from bot.settings import Settings, WrongSettings, read_settings

_CANNOT_START = 69  # EX_UNAVAILABLE


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    match words:
        case ["demo", *rest]:
            from bot.demo import main as demo

            return demo(rest)
        case ["chat", *rest]:
            from bot.sandbox.serve import main as chat

            return chat(rest)
        case ["keys", *rest]:
            from bot.keys import main as keys

            return keys(rest)
        case ["check", *rest]:
            from bot.check import main as check

            return check(rest)
        case _:
            return _serve(words)


def _serve(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bot", description="The portrait bot. Also: check, keys, demo, chat."
    )
    parser.add_argument("--embedded", action="store_true", help="start a bundled Valkey and a worker beside the bot")
    chosen = parser.parse_args(words)
    try:
        settings = read_settings()
    except WrongSettings as error:
        print(error, file=sys.stderr)
        return _CANNOT_START
    set_up_logs(settings.log_format, settings.log_level)
    try:
        asyncio.run(_until_told_to_stop(settings, is_embedded=chosen.embedded))
    except (StartFailure, ServiceFailure, NoMasterKey, PortTaken) as failure:
        print(failure, file=sys.stderr)
        return _CANNOT_START
    return 0


async def _until_told_to_stop(settings: Settings, *, is_embedded: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if not is_embedded:
        await run(settings, stop)
        return
    frontends_of(settings)  # says what is missing before anything is started
    worker = {"PORTRAIT_MASTER_KEY": master_keys(settings).text()}
    if settings.health_port is not None:
        worker["PORTRAIT_HEALTH_PORT"] = str(settings.health_port + 1)
    async with embedded_services(
        settings.data_dir, blobs_url=settings.blobs_url, worker_environment=worker
    ) as services:
        await run(settings.model_copy(update={"redis_url": SecretStr(services.redis_url)}), stop)


if __name__ == "__main__":
    sys.exit(main())
