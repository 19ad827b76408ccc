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
class Settle:
    """The message whose button was pressed has done its work and says this now; without such a message, nothing."""

    reply: Reply


@dataclass(frozen=True)
class RecordConsent:
    version: str


@dataclass(frozen=True)
class OpenCollection:
    session_id: str


@dataclass(frozen=True)
class Retrain:
    """Opens a collection for a new model that takes the place of the subject's; with its photos if they were kept."""

    session_id: str
    subject_id: str


@dataclass(frozen=True)
class KeepPhotos:
    """Whether a collection's photos stay after the training."""

    session_id: str
    keeps: bool


@dataclass(frozen=True)
class NameModel:
    """What the model of a collection shall be called, or what a subject is called from now on."""

    what: Literal["collection", "subject"]
    thing_id: str
    name: str


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
    """`template` is an id, or a title typed by a person.

    `sitters`: subjects by face, from left to right ("" leaves a face as it is); empty: the current one, largest face.
    """

    template: str
    sitters: tuple[str, ...] = ()


@dataclass(frozen=True)
class OrderAgain:
    """The job once more: a portrait with another seed, or whatever failed."""

    job_id: str
    only_failed: bool


@dataclass(frozen=True)
class OrderMore:
    """Several more like a portrait: the same people and template, other seeds."""

    portrait_id: str


@dataclass(frozen=True)
class AskFace:
    """Who shall be the next face of a template; `chosen` are the subjects of the faces before it ("": left)."""

    template_id: str
    chosen: tuple[str, ...]
    in_place: bool


@dataclass(frozen=True)
class Favourite:
    """A portrait becomes a favourite, or is one no longer. `page`: the page of the results that shows it."""

    portrait_id: str
    page: str = ""


@dataclass(frozen=True)
class CancelJob:
    job_id: str


@dataclass(frozen=True)
class CancelAllJobs:
    pass


@dataclass(frozen=True)
class LookUp:
    """Show what is stored: `what` at `place` (an id, a page, or `category.index`)."""

    what: Literal[
        "gallery",
        "results",
        "others",
        "queue",
        "privacy",
        "models",
        "subject",
        "delete_subject",
        "forget",
        "original",
    ]
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
class Report:
    """A complaint about a portrait."""

    portrait_id: str


@dataclass(frozen=True)
class Keep:
    """Nothing of what the person was warned of is deleted yet."""


@dataclass(frozen=True)
class Export:
    """Everything that is stored about the person, as files."""


@dataclass(frozen=True)
class Forget:
    pass


Order = (
    Settle
    | RecordConsent
    | OpenCollection
    | Retrain
    | KeepPhotos
    | NameModel
    | KeepPhoto
    | DropPicture
    | RemovePhotos
    | DropCollection
    | StartTraining
    | CheckOwnTemplate
    | OrderPortrait
    | OrderAgain
    | OrderMore
    | AskFace
    | Favourite
    | CancelJob
    | CancelAllJobs
    | LookUp
    | Delete
    | UseSubject
    | Report
    | Keep
    | Export
    | Forget
)
Act = Telling | Order
