"""The port to a chat platform: two verbs, and one kind of failure."""

from __future__ import annotations

from typing import Protocol

from bot.domain import Address, Language, MessageRef
from bot.replies import Reply


class ChatError(Exception):
    """A platform did not take a message.

    `is_permanent`: the person blocked the bot, the chat or the message is gone: never try again. Otherwise try again,
    after `retry_after_s` where the platform said so.
    """

    def __init__(self, why: str, *, is_permanent: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.is_permanent, self.retry_after_s = is_permanent, retry_after_s


class Chat(Protocol):
    """What the core asks of a platform. Implementations keep to the platform's limits and edit rates themselves."""

    async def send(self, to: Address, reply: Reply, language: Language) -> list[MessageRef]:
        """Says it in new messages; the refs in order (the last one holds the buttons). Raises ChatError."""
        ...

    async def update(self, ref: MessageRef, reply: Reply, language: Language) -> MessageRef:
        """Says it by editing a message of ours; a new message when it cannot be edited any more. Raises ChatError."""
        ...

    async def delete(self, ref: MessageRef) -> bool:
        """Deletes a message of ours; False when the platform no longer lets us. Raises ChatError when it is away."""
        ...
