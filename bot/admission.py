"""Who may not order now, and what is open to everybody always: one's data, a way out, help."""

from __future__ import annotations

from bot.dialogue import Asked, Heard, Pressed

_ASKED = frozenset({"help", "privacy", "forget", "cancel", "models", "results", "queue"})
_PRESSED = frozenset(
    {"help", "privacy", "forget", "forget_yes", "forget_sure", "forget_no", "export", "keep", "report", "decline"}
    | {"cancel_job", "cancel_collection", "delete_portrait", "delete_subject", "delete_subject_yes"}
    | {"delete_template", "models", "subject", "results", "original"}
)


def is_open_to_all(heard: Heard) -> bool:
    """Also to somebody who is blocked, or whom the server keeps out."""
    match heard:
        case Asked(command):
            return command in _ASKED
        case Pressed(choice):
            return choice.action in _PRESSED
        case _:
            return False
