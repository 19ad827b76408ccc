"""The whole dialogue as one pure function: what was said, in which state, on which facts -> what to do and to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bot.replies import Choice

COMMANDS = (
    "start",
    "train",
    "portrait",
    "templates",
    "models",
    "results",
    "queue",
    "cancel",
    "privacy",
    "forget",
    "help",
)


@dataclass(frozen=True)
class Asked:
    """A command, without its slash. Platforms pass what they do not know as it came."""

    command: str
    argument: str = ""


@dataclass(frozen=True)
class SentPicture:
    """A picture file as it came. `group` names the album it came in; `is_original_file`: not recompressed by the chat."""

    data: bytes
    is_original_file: bool = False
    group: str | None = None


@dataclass(frozen=True)
class PictureNotTaken:
    """A picture that never reached us or cannot be used; `reason` as in replies.PhotoNotTaken."""

    reason: str


@dataclass(frozen=True)
class Pressed:
    choice: Choice


@dataclass(frozen=True)
class Typed:
    text: str


@dataclass(frozen=True)
class PictureKept:
    """A picture that was decoded and stored under this id (made of SentPicture by use_cases)."""

    picture_id: str


Said = Asked | SentPicture | PictureNotTaken | Pressed | Typed
Heard = Asked | PictureKept | PictureNotTaken | Pressed | Typed
"""What `advance` is told: like Said, with pictures already decoded and stored."""

Action = Literal[
    "agree",
    "decline",
    "train",
    "start",
    "remove_refused",
    "remove_last",
    "cancel_collection",
    "cancel_job",
    "retry",
    "gallery",
    "use",
    "own_template",
    "delete_template",
    "again",
    "original",
    "delete_portrait",
    "results",
    "models",
    "use_subject",
    "delete_subject",
    "privacy",
    "forget",
    "forget_yes",
    "forget_no",
    "help",
]
