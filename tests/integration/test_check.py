"""`python -m bot check` names what is wrong and what to do, and nothing else when all is well."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from bot.check import Finding, look
from bot.db.migrate import upgrade
from bot.sandbox.server import Sandbox
from bot.settings import Settings
from gpu_worker.contract.jobs import worker_key
from gpu_worker.contract.sealing import MasterKeys, new_key
from tests.bot_bench import bot_bench
from tests.fake_discord import FakeDiscord
from tests.valkey import ValkeyServer


def settings(tmp_path: Path, redis_url: str, token: str | None = "1:token") -> Settings:
    return Settings(
        _env_file=None,
        telegram_token=SecretStr(token) if token else None,
        redis_url=SecretStr(redis_url),
        data_dir=tmp_path,
        blobs_url=str(tmp_path / "blobs"),
    )


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


async def test_a_studio_that_stands_has_nothing_to_mend(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with Sandbox() as sandbox:
        await everything_is_well(tmp_path, valkey, sandbox)


async def everything_is_well(tmp_path: Path, valkey: ValkeyServer, sandbox: Sandbox) -> None:
    chosen = settings(tmp_path, valkey.url, sandbox.token).model_copy(update={"telegram_api_url": sandbox.url})
    await asyncio.to_thread(upgrade, chosen.database)
    redis = Redis.from_url(valkey.url)
    await redis.hset(worker_key("w1"), mapping={"profile": "mini", "device": "cpu"})
    found = by_name(await look(chosen))
    await redis.aclose()
    assert not [str(finding) for finding in found.values() if finding.remedy]
    assert "mini on cpu" in found["workers"].state
    assert not list((tmp_path / "blobs").rglob("check/*")), "the check leaves nothing behind"


async def test_every_lack_is_a_line_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file where a folder should be")
    found = by_name(await look(settings(tmp_path, f"unix://{tmp_path}/nobody.sock", token=None)))
    assert "PORTRAIT_TELEGRAM_TOKEN" in found["tokens"].remedy
    assert "PORTRAIT_BLOBS_URL" in found["storage"].remedy
    assert "PORTRAIT_REDIS_URL" in found["queue and workers"].remedy


async def test_no_worker_is_said(tmp_path: Path, valkey: ValkeyServer) -> None:
    assert "gpu_worker" in by_name(await look(settings(tmp_path, valkey.url)))["workers"].remedy


async def test_the_master_key_is_looked_at(
    tmp_path: Path, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(tmp_path, valkey.url)
    await asyncio.to_thread(upgrade, chosen.database)
    assert "opens every user's key" in by_name(await look(chosen))["master key"].state
    async with bot_bench(chosen.database, valkey.url, tmp_path) as bench:
        await bench.collect(5)
    other = chosen.model_copy(update={"master_key": SecretStr(MasterKeys((new_key(),)).text())})
    assert "PORTRAIT_MASTER_KEY" in by_name(await look(other))["master key"].remedy
    monkeypatch.delenv("PORTRAIT_MASTER_KEY")
    alone = settings(tmp_path / "new", valkey.url)
    assert not by_name(await look(alone))["master key"].remedy, "the bot will make one"
    path = tmp_path / "key"
    path.write_text(MasterKeys((new_key(),)).text())
    path.chmod(0o644)
    by_file = alone.model_copy(update={"master_key_file": path})
    assert by_name(await look(by_file))["master key"].remedy == f"chmod 600 {path}"


async def test_workers_that_load_or_have_another_key_are_named(tmp_path: Path, valkey: ValkeyServer) -> None:
    redis = Redis.from_url(valkey.url)
    said = {"profile": "mini", "device": "cpu", "version": "1", "state": "loading", "master_key": "00000000"}
    await redis.hset(worker_key("w1"), mapping=said)
    found = by_name(await look(settings(tmp_path, valkey.url)))
    await redis.aclose()
    assert "engine models check" in found["weights"].remedy
    assert "PORTRAIT_MASTER_KEY" in found["workers' master key"].remedy


async def test_a_token_that_the_platform_does_not_know_is_named(tmp_path: Path) -> None:
    async with Sandbox() as sandbox, FakeDiscord() as discord:
        tokens = {"telegram_token": SecretStr("1:wrong"), "discord_token": SecretStr("wrong")}
        places = {"telegram_api_url": sandbox.url, "discord_api_url": discord.api_url}
        chosen = settings(tmp_path, f"unix://{tmp_path}/nobody.sock").model_copy(update=tokens | places)
        found = by_name(await look(chosen))
        assert "BotFather" in found["Telegram token"].remedy
        assert "developer portal" in found["Discord token"].remedy
        right = {"discord_token": SecretStr(discord.token)}
        assert not by_name(await look(chosen.model_copy(update=right)))["Discord token"].remedy
    away = by_name(await look(chosen))
    assert "internet" in away["Telegram token"].remedy
    assert "wrong" not in str(away["Telegram token"])
