"""Two hundred people who talk to one bot process: how soon it answers, and whether its memory grows.

The bot and a worker with the stand-in engine are real processes; the server they talk to is the sandbox, in this
process, so that every time is taken by one clock: from the moment an update lies ready for the bot to the moment its
answer arrives. What this process takes of the processor is measured too: it must not be what is slow.

People come one after the other, over the first ARRIVING thinking times; each then does something every thinking time.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot.sandbox.bot_api import keep_photo
from bot.sandbox.pictures import sent_from_a_phone
from bot.sandbox.server import Sandbox
from bot.sandbox.world import World
from tests.conftest import ROOT
from tests.fakes import jpeg
from tests.valkey import ValkeyServer

PATIENCE_S = 60.0
ARRIVING = 15  # thinking times: people do not all send their photos in the same ten seconds
PHOTOS = 6
ASKED = ("help", "queue", "models", "results", "portrait", "privacy")
PRESSED = ("gallery", "use", "results", "again", "models")


@dataclass
class Measured:
    """Seconds from an update to its answer, by kind; and the bot's memory in MiB after so many updates."""

    answers: dict[str, list[float]] = field(default_factory=lambda: {"command": [], "button": [], "photos": []})
    unanswered: list[str] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)
    updates: int = 0
    finished: int = 0
    seconds: float = 0.0
    processor_s: float = 0.0  # of the bot's process
    own_processor_s: float = 0.0  # of this one: people and Telegram's server
    by_person: dict[int, list[float]] = field(default_factory=dict)  # seconds to each answer


class Phone:
    """One person's app: sends, presses, and sees what the bot sends."""

    def __init__(self, world: World, user: int, measured: Measured) -> None:
        self._world, self.user, self._measured = world, user, measured
        self.person, self.chat = world.person(user), world.chat(user)
        self._draw = random.Random(user)
        self._changed = asyncio.Condition()
        self._seen: list[dict[str, Any]] = []

    async def see(self, event: dict[str, Any]) -> None:
        async with self._changed:
            self._seen.append(event)
            self._changed.notify_all()

    async def say(self, text: str) -> None:
        """A command or words; measured until the next new message of the bot."""
        entities = [{"type": "bot_command", "offset": 0, "length": len(text)}] if text.startswith("/") else []
        message = await self._world.add_message(self.user, self.person, {"text": text, "entities": entities})
        await self._measure("command", {"message": message}, lambda event: event["kind"] == "message")

    async def press(self, *actions: str) -> bool:
        """The newest button of one of these kinds; measured until the spinner stops or something new is shown.

        False: there is none.
        """
        found = self._button(*actions)
        if found is None:
            return False
        message, data = found
        query_id = str(self._world.next_id())
        self._world.memory.queries[query_id] = {"chat": self.user, "user": self.user}
        query = {"id": query_id, "from": self.person, "message": message, "chat_instance": "1", "data": data}
        await self._measure(
            "button",
            {"callback_query": query},
            lambda event: event["kind"] in ("message", "edit") or event.get("query_id") == query_id,
        )
        return True

    async def send_photos(self, count: int) -> None:
        """An album; measured until the bot says something of it, which it does after a second of quiet."""
        group = str(self._world.next_id())
        updates = []
        for number in range(count):
            sizes = await asyncio.to_thread(sent_from_a_phone, jpeg(self.user * 100 + number, (320, 240)))
            content = {"photo": keep_photo(self._world, sizes), "media_group_id": group}
            updates.append({"message": await self._world.add_message(self.user, self.person, content)})
        for update in updates[:-1]:
            self._measured.updates += 1
            await self._world.push_update(**update)
        await self._measure("photos", updates[-1], lambda event: event["kind"] in ("message", "edit"))

    async def until_button(self, *actions: str) -> bool:
        return await self._until(lambda: self._button(*actions) is not None)

    async def _measure(self, kind: str, update: dict[str, Any], is_answer: Any) -> None:
        self._seen.clear()
        self._measured.updates += 1
        begin = time.perf_counter()
        await self._world.push_update(**update)
        if await self._until(lambda: any(is_answer(event) for event in self._seen)):
            took = time.perf_counter() - begin
            self._measured.answers[kind].append(took)
            self._measured.by_person.setdefault(self.user, []).append(took)
        else:
            self._measured.unanswered.append(f"{kind} of {self.user}")

    async def _until(self, is_so: Any) -> bool:
        try:
            async with asyncio.timeout(PATIENCE_S), self._changed:
                await self._changed.wait_for(is_so)
        except TimeoutError:
            return False
        return True

    def _button(self, *actions: str) -> tuple[dict[str, Any], str] | None:
        for message in sorted(self.chat.messages.values(), key=lambda m: -m["message_id"]):
            for row in message.get("reply_markup", {}).get("inline_keyboard", ()):
                for button in row:
                    if button.get("callback_data", "").split(":")[1:2] in [[action] for action in actions]:
                        return message, button["callback_data"]
        return None

    async def live(self, until: int, think_s: float) -> None:
        """Trains a model, then orders portraits, pages and asks, until everybody together has said enough."""
        await asyncio.sleep(self._draw.uniform(0, ARRIVING) * think_s)
        for words in ("/start", "/train"):
            await self.say(words)
            await self._think(think_s)
        await self.press("agree")
        await self.send_photos(PHOTOS)
        if await self.until_button("start"):
            await self.press("start")
        while self._measured.updates < until:
            await self._think(think_s)
            if self._draw.random() < 0.5 and await self.press(self._draw.choice(PRESSED)):
                continue
            await self.say(f"/{self._draw.choice(ASKED)}")
        self._measured.finished += 1

    async def _think(self, think_s: float) -> None:
        await asyncio.sleep(self._draw.uniform(0.2, 1.8) * think_s)


@asynccontextmanager
async def running_bot(folder: Path, sandbox: Sandbox, valkey: ValkeyServer) -> AsyncIterator[int]:
    """A bot and a worker as real processes; the bot's process id."""
    processes = _start(folder, sandbox, valkey)
    try:
        yield processes[0].pid
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:  # the bot says good-bye to the server, which is in this process
            await asyncio.to_thread(process.wait, 30)


def _start(folder: Path, sandbox: Sandbox, valkey: ValkeyServer) -> list[subprocess.Popen[bytes]]:
    shared = {"redis_url": valkey.url, "blobs_url": str(folder / "blobs"), "log_level": "WARNING"}
    shared["master_key_file"] = str(folder / "master.key")
    bot = {"telegram_token": sandbox.token, "telegram_api_url": sandbox.url, "data_dir": str(folder)}
    worker = {"work_dir": str(folder / "work"), "engine_entry": "tests.stand_in_engine", "report_every_s": "1"}
    made = [sys.executable, "-m", "bot", "keys", "new"]
    (folder / "master.key").write_bytes(subprocess.run(made, cwd=ROOT, check=True, capture_output=True).stdout)
    return [
        subprocess.Popen([sys.executable, "-m", module], cwd=ROOT, env=_environment({**shared, **own}))
        for module, own in (("bot", bot), ("gpu_worker", worker))
    ]


def _environment(settings: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **{f"PORTRAIT_{name.upper()}": value for name, value in settings.items()}}


def processor_s(process: int) -> float:
    """Processor time that a process has taken so far: a measure that other programs on the machine do not change."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(process: int) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the process has no memory")


async def measure(folder: Path, valkey: ValkeyServer, people: int, updates: int, think_s: float) -> Measured:
    measured = Measured()
    async with Sandbox(is_polite_only=True) as sandbox:
        world = sandbox.world
        world.save = lambda: None  # type: ignore[method-assign]  # its memory need not survive
        phones = {1000 + n: Phone(world, 1000 + n, measured) for n in range(people)}
        _listen(world, phones)
        async with running_bot(folder, sandbox, valkey) as bot:
            await _talk(world, phones, bot, measured, updates, think_s)
    return measured


async def _talk(
    world: World, phones: dict[int, Phone], bot: int, measured: Measured, updates: int, think_s: float
) -> None:
    await _until_polled(world)
    began, taken, own = time.perf_counter(), processor_s(bot), time.process_time()
    watching = asyncio.create_task(_watch(bot, measured, max(updates // 40, 1)))
    await asyncio.gather(*(phone.live(updates, think_s) for phone in phones.values()))
    watching.cancel()
    measured.memory.append((measured.updates, memory_mib(bot)))
    measured.seconds, measured.processor_s = time.perf_counter() - began, processor_s(bot) - taken
    measured.own_processor_s = time.process_time() - own


def _listen(world: World, phones: dict[int, Phone]) -> None:
    """Every phone hears of what happens in its own chat, at once."""
    announce = world.announce

    async def told(chat_id: int, kind: str, **what: Any) -> None:
        await announce(chat_id, kind, **what)
        is_bots = kind != "message" or what["message"]["from"]["is_bot"]
        if chat_id in phones and is_bots:
            await phones[chat_id].see({"kind": kind, **what})

    world.announce = told  # type: ignore[method-assign]


async def _until_polled(world: World) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not any(call["method"].lower() == "setmycommands" for call in world.calls):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def _watch(bot: int, measured: Measured, every: int) -> None:
    due = 0
    while True:
        if measured.updates >= due:
            measured.memory.append((measured.updates, memory_mib(bot)))
            due = measured.updates + every
        await asyncio.sleep(0.2)


def growth(memory: list[tuple[int, float]]) -> float:
    """MiB per 1000 updates over the second half of the run: the slope of the line of least squares."""
    late = memory[len(memory) // 2 :]
    middle, mean = sum(x for x, _ in late) / len(late), sum(y for _, y in late) / len(late)
    spread = sum((x - middle) ** 2 for x, _ in late)
    return 1000 * sum((x - middle) * (y - mean) for x, y in late) / spread if spread else 0.0


def quantile(times: list[float], share: float) -> float:
    return sorted(times)[min(int(len(times) * share), len(times) - 1)] if times else float("nan")
