"""The sandbox as a process of its own that writes down everything that happens in its chats: what people really see.

`python -m tests.chaos.platform PORT FOLDER`. SIGTERM is an outage: started again, it goes on where it was, as Telegram
forgets nothing.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import bot.sandbox.server
from bot.sandbox.server import Sandbox
from bot.sandbox.world import Json, World

KEPT = 3000


class WrittenWorld(World):
    """Every event, and every update that a bot is given, is a line of `log.jsonl`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        path = folder / "log.jsonl"
        if path.exists():
            events = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            events = [event for event in events if "seq" in event]
            self._last_event = events[-1]["seq"] if events else 0
            self.events.extend(events[-KEPT:])
        self._log = path.open("a", encoding="utf-8")

    async def announce(self, chat_id: int, kind: str, **what: Any) -> None:
        self._last_event += 1
        self._is_dirty = True
        event = {"seq": self._last_event, "chat_id": chat_id, "kind": kind, "at": time.time(), **what}
        self._write(event)
        async with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    async def push_update(self, **what: Json) -> None:
        await super().push_update(**what)
        if self.memory.updates:
            newest = self.memory.updates[-1]
            self._write({"update": newest["update_id"], "kind": "given", "at": time.time(), "what": list(what)})
        self.save()  # Telegram would not lose it either

    def confirm_updates(self, offset: int) -> None:
        before = len(self.memory.updates)
        super().confirm_updates(offset)
        if len(self.memory.updates) != before:
            self._write({"kind": "confirmed", "before": offset, "left": len(self.memory.updates), "at": time.time()})

    def _write(self, line: Json) -> None:
        self._log.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._log.flush()


async def main(port: int, folder: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    bot.sandbox.server.World = WrittenWorld  # type: ignore[misc, attr-defined]
    async with Sandbox(port=port, folder=folder):
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
