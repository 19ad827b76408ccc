"""People's pictures and models are sealed under a key of their own, and noise once that key is gone."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from bot.app import StartFailure, open_bot
from bot.db.database import open_database
from bot.keys import NoMasterKey, UserKeys, main, master_keys
from bot.outbox import relay
from bot.replies import ConfirmForget, ConfirmForgetAgain
from bot.settings import Settings
from gpu_worker.contract.blobs import BlobNotFound, open_blobs
from gpu_worker.contract.sealing import MAGIC, CannotOpen, MasterKeys, new_key, unseal, written_key
from tests.bot_bench import ANNA, BEN, BotBench, bot_bench
from tests.integration.conftest import Workers
from tests.integration.postgres import database_url
from tests.sealed import the_master_keys
from tests.valkey import ValkeyServer
from tests.worker_bench import Bench

__all__ = ["database_url"]


@pytest.fixture
async def studio(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    async with bot_bench(database_url, valkey.url, tmp_path) as made:
        yield made


async def user_of(studio: BotBench) -> str:
    async with studio.parts.db.transaction() as store:
        return (await store.people.all_ids()).pop()


async def test_nothing_of_a_person_lies_open(studio: BotBench) -> None:
    await studio.train()
    await studio.portrait()
    stored = open_blobs(studio.parts.settings.blobs_url)
    keys = await stored.keys("users")
    assert {key.rpartition(".")[2] for key in keys} >= {"jpg", "safetensors"}
    for key in keys:
        assert (await stored.get(key)).startswith(MAGIC)
        assert not (await studio.parts.blobs.get(key)).startswith(MAGIC)
    assert (await stored.get(studio.parts.templates.templates[0].key)).startswith(b"\xff\xd8"), "the gallery is plain"


async def test_each_person_has_a_key_of_their_own(studio: BotBench) -> None:
    for who in (ANNA, BEN):
        await studio.collect(5, who)
    async with studio.parts.db.transaction() as store:
        wrapped = await store.people.keys()
    assert len({the_master_keys().unwrap(each) for each in wrapped.values()}) == 2


async def test_a_backup_of_the_blobs_is_noise_after_forget(studio: BotBench) -> None:
    await studio.collect(5)
    stored, user_id = open_blobs(studio.parts.settings.blobs_url), await user_of(studio)
    backup = {key: await stored.get(key) for key in await stored.keys("users")}
    key = await studio.parts.keys.of(user_id)
    assert all(unseal(data, key, name).startswith(b"\xff\xd8") for name, data in backup.items())
    await studio.ask("forget")
    await studio.push(ConfirmForget, "forget_yes")
    await studio.push(ConfirmForgetAgain, "forget_sure")
    for name, data in backup.items():
        await stored.put(name, data)
        with pytest.raises(BlobNotFound):
            await studio.parts.blobs.get(name)
    async with studio.parts.db.transaction() as store:
        assert await store.people.keys() == {}


async def test_redis_never_holds_a_key_that_opens_anything(studio: BotBench) -> None:
    await studio.consent()
    await studio.photos(5)
    await studio.parts.tasks.settle()
    await relay(studio.parts)
    redis, key = studio.parts.queue.redis, await studio.parts.keys.of(await user_of(studio))
    bodies = [await redis.get(name) async for name in redis.scan_iter("arq:job:*")]
    payload = json.loads(bodies[0])["a"][0]
    assert the_master_keys().unwrap(payload["user_key"]) == key
    assert not [body for body in bodies if written_key(key).encode() in body]
    async with studio.parts.db.transaction() as store:
        assert all(job.payload["user_key"] is None for job in await store.jobs.all_open()), "one place in the database"


async def test_master_keys_rotate(studio: BotBench) -> None:
    await studio.collect(5)
    old, new, settings = the_master_keys(), MasterKeys((new_key(),)), studio.parts.settings
    photo = (await studio.parts.blobs.keys("users"))[0]
    both = MasterKeys(new.keys + old.keys)
    keys = UserKeys(open_database(settings.database), both)
    assert [await keys.rotate(), await keys.rotate()] == [1, 0]
    after = settings.model_copy(update={"master_key": SecretStr(new.text())})
    async with open_bot(after) as bot:
        assert (await bot.blobs.get(photo)).startswith(b"\xff\xd8")
    with pytest.raises(StartFailure, match="sealed under a master key that is not among those given"):
        async with open_bot(settings):
            pass


async def test_rotating_without_the_old_key_changes_nothing(studio: BotBench) -> None:
    await studio.collect(5)
    keys = UserKeys(studio.parts.db, MasterKeys((new_key(),)))
    with pytest.raises(CannotOpen):
        await keys.rotate()
    assert await studio.parts.keys.of(await user_of(studio))
    assert await keys.unopenable() == 1


def test_the_first_start_makes_a_key_file_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORTRAIT_MASTER_KEY")
    settings = Settings(_env_file=None, data_dir=tmp_path / "data")
    made = master_keys(settings)
    assert stat.S_IMODE((tmp_path / "data" / "master.key").stat().st_mode) == 0o600
    assert master_keys(settings) == made, "and it stays"


def test_a_key_file_that_was_named_is_not_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORTRAIT_MASTER_KEY")
    settings = Settings(_env_file=None, data_dir=tmp_path, master_key_file=tmp_path / "secret")
    with pytest.raises(NoMasterKey, match="keys new"):
        master_keys(settings)
    (tmp_path / "secret").write_text("what is this")
    with pytest.raises(NoMasterKey, match="43 characters"):
        master_keys(settings)


def test_a_new_key_is_printed_as_it_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new"]) == 0
    assert len(MasterKeys.read(capsys.readouterr().out).keys) == 1


async def test_a_worker_with_another_master_key_leaves_the_job_to_others(bench: Bench, workers: Workers) -> None:
    workers.start(bench.server, master_key=MasterKeys((new_key(),)).text())
    job = await bench.inspect()
    await bench.enqueue(job)
    failed = await bench.outcome(job)
    assert (failed.kind, failed.reason) == ("transient", "storage")
    assert "PORTRAIT_MASTER_KEY" in failed.detail


def test_a_worker_without_a_master_key_says_so(
    valkey: ValkeyServer, workers: Workers, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = workers.start(valkey, master_key="", master_key_file=str(tmp_path / "nothing"))
    assert worker.wait(90) == 1
    assert "PORTRAIT_MASTER_KEY" in capfd.readouterr().err


async def test_what_a_worker_stores_is_sealed(bench: Bench, workers: Workers) -> None:
    workers.start(bench.server)
    job = await bench.train()
    await bench.enqueue(job)
    result = (await bench.outcome(job)).result
    for key in await bench.stored.keys(result.files_prefix):
        assert (await bench.stored.get(key)).startswith(MAGIC)
        assert await bench.blobs.get(key)


async def test_a_place_for_blobs_that_cannot_be_written_is_one_sentence(valkey: ValkeyServer, tmp_path: Path) -> None:
    settings = Settings(
        _env_file=None, data_dir=tmp_path, redis_url=SecretStr(valkey.url), blobs_url="file:///proc/no/where"
    )
    with pytest.raises(StartFailure, match="Database or blobs cannot be used yet"):
        async with open_bot(settings):
            pass
