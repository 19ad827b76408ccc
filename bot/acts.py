"""What follows from what a person said: something to show (a telling) or something to do (an order)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bot.replies import Reply


@dataclass(frozen=True)
class Tell:
    """Say it: in a new message, or in place of the message whose button was pressed."""

    reply: Reply
    in_place: bool = False


@dataclass(frozen=True)
class ShowCollection:
    """Bring a collection's one status message up to date; `anew`: as a new message at the end of the chat."""

    session_id: str
    anew: bool = False


@dataclass(frozen=True)
class ShowJob:
    """Bring a job's one message up to date."""

    job_id: str


Telling = Tell | ShowCollection | ShowJob


@dataclass(frozen=True)
class RecordConsent:
    version: str


@dataclass(frozen=True)
class OpenCollection:
    session_id: str


@dataclass(frozen=True)
class KeepPhoto:
    session_id: str
    picture_id: str


@dataclass(frozen=True)
class DropPicture:
    """A stored picture that nobody wants."""

    picture_id: str


@dataclass(frozen=True)
class RemovePhotos:
    session_id: str
    which: Literal["refused", "last"]


@dataclass(frozen=True)
class DropCollection:
    session_id: str


@dataclass(frozen=True)
class StartTraining:
    session_id: str


@dataclass(frozen=True)
class CheckOwnTemplate:
    picture_id: str


@dataclass(frozen=True)
class OrderPortrait:
    """`template` is an id, or a title typed by a person."""

    template: str


@dataclass(frozen=True)
class OrderAgain:
    """The job once more: a portrait with another seed, or whatever failed."""

    job_id: str
    only_failed: bool


@dataclass(frozen=True)
class CancelJob:
    job_id: str


@dataclass(frozen=True)
class CancelAllJobs:
    pass


@dataclass(frozen=True)
class LookUp:
    """Show what is stored: `what` at `place` (a page, or `category.index`)."""

    what: Literal["gallery", "results", "queue", "privacy", "models", "forget", "original"]
    place: str = ""
    in_place: bool = False


@dataclass(frozen=True)
class Delete:
    what: Literal["portrait", "template", "subject"]
    thing_id: str


@dataclass(frozen=True)
class UseSubject:
    subject_id: str


@dataclass(frozen=True)
class Forget:
    pass


Order = (
    RecordConsent
    | OpenCollection
    | KeepPhoto
    | DropPicture
    | RemovePhotos
    | DropCollection
    | StartTraining
    | CheckOwnTemplate
    | OrderPortrait
    | OrderAgain
    | CancelJob
    | CancelAllJobs
    | LookUp
    | Delete
    | UseSubject
    | Forget
)
Act = Telling | Order
