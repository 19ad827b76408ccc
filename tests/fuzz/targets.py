"""Every target by its name, and how much of a run it gets."""

from __future__ import annotations

from tests.fuzz.target import Target

SHARES = {
    "picture": 30,
    "button": 12,
    "telegram update": 10,
    "discord interaction": 8,
    "job payload": 10,
    "job event": 12,
    "blob key": 8,
    "sealed blob": 5,
    "settings": 3,
    "LoRA file": 5,
    "sandbox call": 2,
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
