"""The sandbox's memory: people, chats, messages, files and the updates that wait for the bot.

Everything is kept in the Bot API's own JSON shapes, so that what the bot gets is what the page draws. The memory lies
in a folder; a sandbox that is started again in the same folder goes on where it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

BOT = {
    "id": 42,
    "is_bot": True,
    "first_name": "Portrait Studio",
    "username": "portrait_sandbox_bot",
    "can_join_groups": True,
    "can_read_all_group_messages": False,
    "supports_inline_queries": False,
}
MAX_EVENTS = 5000  # that a page or a test may still ask for
# What Telegram sends when a bot does not ask for kinds of updates, as far as the sandbox has them.
DEFAULT_UPDATES = ("message", "edited_message", "callback_query", "my_chat_member")


@dataclass
class ChatState:
    info: Json
    messages: dict[int, Json] = field(default_factory=dict)
    is_blocked: bool = False  # the person blocked the bot


@dataclass
class Fault:
    """An answer that the next `times` calls of `method` get instead of their effect."""

    method: str
    error_code: int
    description: str
    retry_after: int | None = None
    times: int = 1


@dataclass
class Memory:
    """What survives a restart."""

    people: dict[int, Json] = field(default_factory=dict)
    chats: dict[int, ChatState] = field(default_factory=dict)
    updates: list[Json] = field(default_factory=list)
    commands: dict[str, list[Json]] = field(default_factory=dict)
    files: dict[str, Json] = field(default_factory=dict)  # file_id -> {"path", "as": the JSON a message shows}
    queries: dict[str, Json] = field(default_factory=dict)  # callback query id -> {"chat", "user"}
    last_id: int = 1000
    allowed_updates: list[str] = field(default_factory=lambda: list(DEFAULT_UPDATES))


class World:
    """All changes go through here; each is announced to who listens (`changed`) and kept (`save`)."""

    def __init__(self, folder: Path) -> None:
        self.bot: Json = dict(BOT)
        self.folder = folder
        self.memory = Memory()
        self.events: deque[Json] = deque(maxlen=MAX_EVENTS)
        self.calls: deque[Json] = deque(maxlen=MAX_EVENTS)
        self.faults: list[Fault] = []
        self.changed = asyncio.Condition()
        self._last_event = 0
        self._is_dirty = False
        (folder / "files").mkdir(parents=True, exist_ok=True)
        if (folder / "state.json").exists():
            self.memory = _memory_from(json.loads((folder / "state.json").read_text("utf-8")))

    def save(self) -> None:
        if self._is_dirty:
            self._is_dirty = False
            part = self.folder / "state.part"
            part.write_text(json.dumps(asdict(self.memory), ensure_ascii=False), "utf-8")
            os.replace(part, self.folder / "state.json")

    def next_id(self) -> int:
        self.memory.last_id += 1
        return self.memory.last_id

    # -- people and chats

    def person(self, user_id: int) -> Json:
        """The person, made when first asked for."""
        return self.memory.people.setdefault(
            user_id, {"id": user_id, "is_bot": False, "first_name": f"Guest {user_id}", "language_code": "en"}
        )

    def chat(self, chat_id: int) -> ChatState:
        """A negative id is a group, as in Telegram; it is made when somebody first writes there."""
        if chat_id not in self.memory.chats:
            if chat_id < 0:
                info = {"id": chat_id, "type": "group", "title": "Friends"}
            else:
                info = {"id": chat_id, "type": "private", "first_name": self.person(chat_id)["first_name"]}
            self.memory.chats[chat_id] = ChatState(info)
        return self.memory.chats[chat_id]

    # -- messages

    async def add_message(self, chat_id: int, sender: Json, content: Json) -> Json:
        chat = self.chat(chat_id)
        message = {
            "message_id": self.next_id(),
            "from": sender,
            "chat": chat.info,
            "date": int(time.time()),
            **content,
        }
        chat.messages[message["message_id"]] = message
        await self.announce(chat_id, "message", message=message)
        return message

    async def change_message(self, chat_id: int, message_id: int, content: Json) -> Json:
        old = self.chat(chat_id).messages[message_id]
        kept: Json = {k: v for k, v in old.items() if k in ("message_id", "from", "chat", "date", "media_group_id")}
        message = {**kept, "edit_date": int(time.time()), **content}
        self.chat(chat_id).messages[message_id] = message
        await self.announce(chat_id, "edit", message=message)
        return message

    async def delete_message(self, chat_id: int, message_id: int) -> None:
        del self.chat(chat_id).messages[message_id]
        await self.announce(chat_id, "delete", message_id=message_id)

    # -- what the page and the bot are told

    async def announce(self, chat_id: int, kind: str, **what: Any) -> None:
        self._last_event += 1
        self._is_dirty = True
        event = {"seq": self._last_event, "chat_id": chat_id, "kind": kind, "at": time.time(), **what}
        async with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    @property
    def last_event(self) -> int:
        return self._last_event

    def events_after(self, chat_id: int, seq: int) -> list[Json]:
        return [e for e in self.events if e["seq"] > seq and e["chat_id"] in (chat_id, 0)]

    async def push_update(self, **what: Json) -> None:
        if not set(what) & set(self.memory.allowed_updates):
            return
        self._is_dirty = True
        async with self.changed:
            self.memory.updates.append({"update_id": self.next_id(), **what})
            self.changed.notify_all()

    def confirm_updates(self, offset: int) -> None:
        """The bot has everything before `offset`; a negative offset keeps only that many of the newest."""
        if offset < 0:
            self.memory.updates = self.memory.updates[offset:]
        else:
            self.memory.updates = [u for u in self.memory.updates if u["update_id"] >= offset]
        self._is_dirty = True

    def fault_of(self, method: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    # -- files

    def add_file(self, data: bytes, folder: str, name: str) -> str:
        """Keeps the bytes; the file_id."""
        file_id = f"file{self.next_id()}"
        suffix = Path(name).suffix.lower()[:8]
        path = f"{folder}/{file_id}{suffix if suffix[1:].isalnum() else ''}"
        (self.folder / "files" / file_id).write_bytes(data)
        self.memory.files[file_id] = {"path": path, "size": len(data)}
        return file_id

    def file_bytes(self, file_id: str) -> bytes:
        return (self.folder / "files" / file_id).read_bytes()

    def shown_as(self, file_id: str, kind: str, what: Any) -> None:
        """Remembers that this id stands for that photo or document, so that it can be sent again by id."""
        self.memory.files[file_id][kind] = what


def _memory_from(data: Json) -> Memory:
    data["people"] = {int(k): v for k, v in data["people"].items()}
    data["chats"] = {
        int(k): ChatState(v["info"], {int(i): m for i, m in v["messages"].items()}, v["is_blocked"])
        for k, v in data["chats"].items()
    }
    return Memory(**data)
