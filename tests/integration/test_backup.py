"""A backup made as docs/operate.md says, while the bot runs, and restored in a fresh place: the jobs go on, everything
is readable, and whoever was forgotten since stays forgotten."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from bot import replies as r
from bot.domain import JobStatus, new_id
from bot.replies import Choice
from bot.tombstones import FILE, Tombstones
from gpu_worker.contract.blobs import open_blobs
from tests.bot_bench import ANNA, BEN, BotBench, bot_bench
from tests.integration.conftest import valkey
from tests.integration.postgres import database_url, make_database, pg_program
from tests.valkey import ValkeyServer

__all__ = ["database_url", "valkey"]


def back_up_database(url: str, to: Path) -> None:
    parts = make_url(url)
    if parts.get_backend_name() == "sqlite":
        # What `sqlite3 bot.sqlite3 ".backup …"` does.
        with closing(sqlite3.connect(str(parts.database))) as source, closing(sqlite3.connect(to)) as target:
            source.backup(target)
        return
    subprocess.run([pg_program("pg_dump"), f"--file={to}", _plain(url)], check=True)


async def restore_database(url: str, backup: Path, folder: Path) -> str:
    if make_url(url).get_backend_name() == "sqlite":
        shutil.copy(backup, folder / "bot.sqlite3")
        return f"sqlite+aiosqlite:///{folder / 'bot.sqlite3'}"
    fresh = await make_database(f"restored_{new_id()}")
    command = [pg_program("psql"), "--quiet", "--set=ON_ERROR_STOP=1", f"--file={backup}", _plain(fresh)]
    await asyncio.to_thread(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
    return fresh


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


async def order(bench: BotBench) -> None:
    await bench.press(Choice("use", bench.parts.templates.templates[0].template_id), ANNA)


async def test_a_restored_backup_goes_on_and_the_forgotten_stay_forgotten(
    database_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    old, new, backup = tmp_path / "old", tmp_path / "new", tmp_path / "backup"
    for folder in (old, new, backup):
        folder.mkdir()
    async with bot_bench(database_url, valkey.url, old) as bench:
        await bench.train(ANNA)
        await bench.portrait(ANNA)
        await bench.collect(5, BEN)
        await order(bench)  # a portrait is under way
        back_up_database(database_url, backup / "database")
        shutil.copytree(old / "blobs", backup / "blobs")
        await bench.ask("forget", who=BEN)
        await bench.push(r.ConfirmForget, "forget_yes", BEN)
        await bench.push(r.ConfirmForgetAgain, "forget_sure", BEN)
        assert len(bench.parts.tombstones.all()) == 1
        async with bench.parts.db.transaction() as store:
            assert len(await store.people.all_ids()) == 1

    # The machine is lost; the backup and the list of the forgotten are not. Redis is another one, and empty.
    shutil.copytree(backup / "blobs", new / "blobs")
    shutil.copy(old / FILE, new / FILE)
    restored = await restore_database(database_url, backup / "database", new)
    with tempfile.TemporaryDirectory(prefix="vk") as folder:
        server = ValkeyServer(Path(folder))
        server.start()
        async with bot_bench(restored, server.url, new) as bench:
            async with bench.parts.db.transaction() as store:
                (anna,) = await store.people.all_ids()
                (job,) = await store.jobs.all_open()
                assert len(await store.library.portraits(anna, 0, 10)) == 1
            assert job.user_id == anna
            await bench.bot.reconciler.tick()  # Redis knows nothing of the job: it is queued again
            await bench.settle()
            assert bench.chat.sent(r.PortraitsReady) == 1
            async with bench.parts.db.transaction() as store:
                done = await store.jobs.get(job.job_id)
                portraits = await store.library.portraits(anna, 0, 10)
            assert done is not None
            assert done.status is JobStatus.SUCCEEDED
            for portrait in portraits:
                assert (await bench.parts.blobs.get(portrait.view.key)).startswith(b"\xff\xd8")
            owners = {key.split("/")[1] for key in await open_blobs(str(new / "blobs")).keys("users")}
            assert owners == {anna}, "nothing of the forgotten is left"
        server.stop()


def test_without_the_list_nobody_is_forgotten_by_mistake(tmp_path: Path) -> None:
    stones = Tombstones(tmp_path / "data")
    assert stones.all() == set()
    stones.add("anna123456789012")
    stones.add("ben4567890123456")
    assert Tombstones(tmp_path / "data").all() == {"anna123456789012", "ben4567890123456"}
