"""The operator's secrets stay where they are needed: in no log, however talkative, and not in the engine's process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bot.sandbox.person import Person
from gpu_worker.engine_messages import Options
from gpu_worker.engine_process import EngineProcess
from tests.conftest import ROOT
from tests.e2e.conftest import Studio, selfie


def run(environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as stream:
        return subprocess.Popen([sys.executable, "-m", "bot"], cwd=ROOT, env=environment, stderr=stream, stdout=stream)


async def test_no_token_name_or_word_of_a_person_is_in_a_debug_log(studio: Studio, tmp_path: Path) -> None:
    log, settings = tmp_path / "bot.log", studio.settings
    environment = {
        **os.environ,
        "PORTRAIT_TELEGRAM_TOKEN": studio.sandbox.token,
        "PORTRAIT_TELEGRAM_API_URL": studio.sandbox.url,
        "PORTRAIT_DATA_DIR": str(tmp_path),
        "PORTRAIT_REDIS_URL": settings.redis_url.get_secret_value(),
        "PORTRAIT_BLOBS_URL": settings.blobs_url,
        "PORTRAIT_LOG_LEVEL": "DEBUG",
    }
    bot = run(environment, log)
    try:
        async with Person(studio.sandbox.url, 1001) as anna, asyncio.timeout(60):
            await anna.say("my-secret-words")
            await anna.send_photos([("my-secret-file.jpg", selfie(1))])
            while not [m for m in anna.messages.values() if m["from"]["is_bot"]]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    finally:
        bot.send_signal(signal.SIGTERM)
        await asyncio.to_thread(bot.wait, 60)
    said = log.read_text()
    assert "Telegram is on" in said
    assert os.environ["PORTRAIT_MASTER_KEY"] not in said
    for secret in (studio.sandbox.token, "my-secret-words", "my-secret-file"):
        assert secret not in said, [line[:200] for line in said.splitlines() if secret in line][:3]


async def test_the_engines_process_knows_no_address_and_no_key() -> None:
    options = Options(
        entry="tests.stand_in_engine",
        loader="load_checks",
        profile="mini",
        device="cpu",
        memory_mib=0,
        log_format="plain",
        log_level="INFO",
    )
    os.environ["AWS_SECRET_ACCESS_KEY"] = "a-secret-of-the-bucket"
    try:
        engine = EngineProcess(options, 60)
        await engine.start()
        environment = await asyncio.to_thread(Path(f"/proc/{engine.pid}/environ").read_bytes)
        await engine.kill()
    finally:
        del os.environ["AWS_SECRET_ACCESS_KEY"]
    assert b"PATH=" in environment
    for secret in (b"a-secret-of-the-bucket", b"PORTRAIT_", os.environ["PORTRAIT_MASTER_KEY"].encode()):
        assert secret not in environment
