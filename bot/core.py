"""What the chat platforms see of the bot: one call for everything that a person says, and a durable inbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from bot.chat import Chat
from bot.dialogue import Said
from bot.domain import Address, Language, MessageRef
from bot.guilds import GuildRules, Place
from bot.replies import Reply
from gpu_worker.contract.blobs import BlobStore


@dataclass(frozen=True)
class Incoming:
    """Something a person said. `event_id` is the platform's own, the same when it is delivered twice.

    `inbox_id` is the number under which it lies in the inbox, if it does. `pressed` is the message whose button was
    pressed. `is_private` is False in groups and channels that others read.
    `place` is where in a Discord server it was said.
    """

    address: Address
    said: Said
    language: Language
    event_id: str
    inbox_id: int | None = None
    pressed: MessageRef | None = None
    is_private: bool = True
    place: Place | None = None


class Inbox(Protocol):
    """Raw updates, stored before they are acknowledged to the platform and replayed after a crash."""

    async def store(self, platform: str, raws: Mapping[int, str]) -> set[int]:
        """Updates by their ids; the ids of those that are new. Durable when this returns."""
        ...

    async def done(self, platform: str, update_id: int) -> None: ...

    async def pending(self, platform: str) -> list[str]:
        """Stored and not done, in order."""
        ...


class App(Protocol):
    """The bot as a frontend sees it."""

    inbox: Inbox
    blobs: BlobStore

    async def handle(self, incoming: Incoming) -> Reply | None:
        """Does everything that follows from it, answers in the chat through the platform's Chat included.

        A returned reply (NotYours, OutOfDate, …) is for an alert on the pressed button. Never raises: what breaks is
        logged and apologised for.
        """
        ...

    def register(self, platform: str, chat: Chat) -> None:
        """A frontend that can send calls this once it can; until then nothing is sent to the platform."""
        ...

    async def settle_guild(self, place: Place, change: Callable[[GuildRules], GuildRules]) -> GuildRules | None:
        """Changes what a server has settled, and says how it stands now; None when this person may not."""
        ...

    async def kept_file(self, platform: str, key: str) -> str | None:
        """The platform's id of a picture that was uploaded before (see `keep_file`), or None."""
        ...

    async def keep_file(self, platform: str, key: str, file_id: str) -> None:
        """Remembers that blob `key` (a built-in template) is `file_id` at the platform, so that it is uploaded once."""
        ...
