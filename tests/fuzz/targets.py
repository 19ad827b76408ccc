"""Every target by its name, and how much of a run it gets."""

from __future__ import annotations

from tests.fuzz.target import Target

SHARES = {
    "picture": 30,
    "button": 14,
    "telegram update": 4,
    "discord interaction": 9,
    "job payload": 12,
    "job event": 14,
    "blob key": 8,
    "sealed blob": 5,
    "settings": 1,
    "LoRA file": 2,
    "sandbox call": 1,
}


def make_target(name: str) -> Target:
    """Imports only what that target needs."""
    if name == "picture":
        from tests.fuzz.pictures import Pictures

        return Pictures()
    if name in ("button", "telegram update", "discord interaction"):
        from tests.fuzz import chats

        chat: tuple[type[Target], ...] = (chats.Buttons, chats.TelegramUpdates, chats.Interactions)
        return next(kind for kind in chat if kind.name == name)()
    if name == "LoRA file":
        from tests.fuzz.lora_files import LoraFiles

        return LoraFiles()
    if name == "sandbox call":
        from tests.fuzz.local_server import SandboxCalls

        return SandboxCalls()
    from tests.fuzz import wire

    kinds: tuple[type[Target], ...] = (
        wire.JobPayloads,
        wire.JobEvents,
        wire.BlobKeys,
        wire.SealedBlobs,
        wire.Environments,
    )
    return next(kind for kind in kinds if kind.name == name)()
