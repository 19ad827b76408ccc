"""What a dialogue is made of: what a person says, where the dialogue stands, what is known, and a step of it."""

from __future__ import annotations

from dataclasses import dataclass

from bot import replies as r
from bot.acts import Act
from bot.domain import Collection, JobView, Subject
from bot.replies import Choice, Reply

CONSENT_VERSION = "2026-11"

# --- what a person says ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A command, without its slash. Platforms pass what they do not know as it came."""

    command: str
    argument: str = ""


@dataclass(frozen=True)
class SentPicture:
    """A picture file as it came. `group` names its album; `is_original_file`: not recompressed by the platform."""

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
class Filled:
    """Words typed into a dialog that a button opened (where a platform has such dialogs)."""

    choice: Choice
    text: str


@dataclass(frozen=True)
class PictureKept:
    """A picture that was decoded and stored under this id (made of SentPicture by bot/use_cases)."""

    picture_id: str


Said = Asked | SentPicture | PictureNotTaken | Pressed | Typed | Filled
Heard = Asked | PictureKept | PictureNotTaken | Pressed | Typed | Filled

_MOST_WORDS = 4096  # characters; no chat sends more at once


def storable(said: Said) -> Said:
    """What was said, in words that every database takes: no halves of characters, no NUL, no more than a message."""
    match said:
        case Asked(command, argument):
            return Asked(_storable(command), _storable(argument))
        case Typed(text):
            return Typed(_storable(text))
        case Pressed(choice):
            return Pressed(_storable_choice(choice))
        case Filled(choice, text):
            return Filled(_storable_choice(choice), _storable(text))
        case _:
            return said


def _storable_choice(choice: Choice) -> Choice:
    return Choice(_storable(choice.action), _storable(choice.value))


def _storable(words: str) -> str:
    return words.encode("utf-8", "replace").decode().replace("\0", "")[:_MOST_WORDS]


# --- where the dialogue stands --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Idle:
    pass


@dataclass(frozen=True)
class Consenting:
    """The consent text is on the table."""


@dataclass(frozen=True)
class Collecting:
    session_id: str


@dataclass(frozen=True)
class AwaitingTemplatePicture:
    """The next picture is a template of the person's own."""


@dataclass(frozen=True)
class AwaitingName:
    """The next words are what a model of the person's is called."""

    subject_id: str


@dataclass(frozen=True)
class ChoosingFaces:
    """Somebody is chosen for one face of a template after the other: subjects, or "" to leave a face as it is."""

    template_id: str
    faces: int
    chosen: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConfirmingForget:
    """Deleting everything waits for a yes, and then for another; anything else means no and goes back to `back`."""

    back: Idle | Consenting | Collecting | AwaitingTemplatePicture | AwaitingName | ChoosingFaces
    said_yes: bool = False


Dialogue = Idle | Consenting | Collecting | AwaitingTemplatePicture | AwaitingName | ChoosingFaces | ConfirmingForget

# --- what is known ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What is known of the person when they speak. `collection` is the open one; `new_id` is free to be used."""

    new_id: str
    is_private: bool = True
    has_consented: bool = False
    subjects: tuple[Subject, ...] = ()
    collection: Collection | None = None
    training: JobView | None = None
    has_jobs: bool = False
    training_quota: r.QuotaReached | None = None
    retraining_quota: r.QuotaReached | None = None
    template_quota: r.QuotaReached | None = None
    refusal: r.Refused | None = None  # why this person may order nothing here

    @property
    def has_subject(self) -> bool:
        return bool(self.subjects)

    def subject(self, subject_id: str) -> Subject | None:
        """The person's own, or None."""
        return next((subject for subject in self.subjects if subject.subject_id == subject_id), None)


@dataclass(frozen=True)
class Step:
    """`alert` is for the person who pressed a button, beside or instead of the acts."""

    dialogue: Dialogue
    acts: tuple[Act, ...] = ()
    alert: Reply | None = None
