"""Everything that the bot can say, as facts. Each platform renders the whole union with all that it has.

A reply is not a message: a platform may send it, or edit a message that it sent before (see bot/chat.py). A choice is
what a button means; the platform packs it into its callback data.
"""

from __future__ import annotations

from dataclasses import dataclass

from bot.domain import Box, DeletionReceipt, JobView, PhotoVerdict, PortraitView, Subject, Template


@dataclass(frozen=True)
class Choice:
    """A button: `action` from a closed list (bot/conversation.py), `value` an id or a page, at most 24 characters."""

    action: str
    value: str = ""


@dataclass(frozen=True)
class Welcome:
    has_subject: bool


@dataclass(frozen=True)
class Help:
    pass


@dataclass(frozen=True)
class AskConsent:
    """Before the first photo: what happens with photos, 18+, "these photos are of me". Agree or not."""

    text_version: str


@dataclass(frozen=True)
class ConsentGiven:
    """What becomes of the question after the yes."""


@dataclass(frozen=True)
class ConsentDeclined:
    pass


@dataclass(frozen=True)
class CollectingPhotos:
    """The one status message of a collection: how many photos, the verdict on each, what is still missing.

    `is_checking` while a worker looks at photos; `can_start` when enough are usable and nothing is being checked.
    """

    session_id: str
    photos: tuple[PhotoVerdict, ...]
    needed: int
    most: int
    is_checking: bool
    can_start: bool
    keeps_photos: bool = False
    retrains: str = ""  # the name of the model whose place the new one takes


@dataclass(frozen=True)
class AlreadyCollecting:
    """A retraining was asked for while another collection is open."""


@dataclass(frozen=True)
class PhotoNotTaken:
    """A file that never became a photo of the collection; the others are not touched.

    `reason`: unreadable, animated, too_big, too_many_pixels, not_a_picture, too_many_photos, expired.
    """

    reason: str
    count: int = 1


@dataclass(frozen=True)
class NoCollection:
    """A photo came outside of a collection: say what to do (/train, or /portrait for a template of one's own)."""


@dataclass(frozen=True)
class NotEnoughPhotos:
    usable: int
    needed: int


@dataclass(frozen=True)
class Working:
    """A job under way, in one message that is edited: queued with place and ETA, or running with stage and fraction."""

    job: JobView
    template: Template | None = None


@dataclass(frozen=True)
class SubjectReady:
    """Training is done."""

    subject: Subject
    refused: tuple[PhotoVerdict, ...]
    preview_key: str | None
    seconds: float


@dataclass(frozen=True)
class Gallery:
    """One template of a category, as a picture with paging. `index` from 0; categories in order."""

    template: Template
    index: int
    count: int
    category: str
    categories: tuple[str, ...]
    can_use: bool  # the person has a subject


@dataclass(frozen=True)
class AskTemplatePicture:
    """Send me the picture that your face shall go into."""


@dataclass(frozen=True)
class OwnTemplateChecking:
    pass


@dataclass(frozen=True)
class OwnTemplateReady:
    template: Template
    faces: int


@dataclass(frozen=True)
class OwnTemplateRefused:
    """`reason`: no_face, too_small, unreadable, animated, too_big, …"""

    reason: str


@dataclass(frozen=True)
class ChooseFace:
    """Who shall be face number `face` (from 1, left to right) of a template; `chosen` are names so far, "": left.

    `picture_key` is where the template with numbers at its faces (`boxes`) lies, or is put when it is shown first.
    """

    template: Template
    picture_key: str
    boxes: tuple[Box, ...]
    face: int
    chosen: tuple[str, ...]
    subjects: tuple[Subject, ...]


@dataclass(frozen=True)
class NobodyChosen:
    """All faces of a template were left as they are."""


@dataclass(frozen=True)
class SkippedFace:
    """A face (from 1, left to right) that stayed as it was; `reason` is a code of the contract."""

    face: int
    reason: str


@dataclass(frozen=True)
class PortraitsReady:
    """The best candidate of an order; `others` is how many more there are. Of several people, who was left out."""

    job_id: str
    portraits: tuple[PortraitView, ...]
    seconds: float
    others: int = 0
    skipped: tuple[SkippedFace, ...] = ()
    is_spoiler: bool = False  # shown only at a click: what the server wants in which it was ordered


@dataclass(frozen=True)
class OtherCandidates:
    """The candidates of an order besides the best one, best first."""

    job_id: str
    portraits: tuple[PortraitView, ...]


@dataclass(frozen=True)
class FavouriteSet:
    """A portrait is a favourite from now on, or no longer."""

    is_favourite: bool


@dataclass(frozen=True)
class OriginalFile:
    """The portrait as an uncompressed-by-the-platform file."""

    portrait: PortraitView


@dataclass(frozen=True)
class Results:
    """One page of the person's portraits, newest first; of all of them, or of the favourites."""

    portraits: tuple[PortraitView, ...]
    page: int
    pages: int
    favourites: int = 0  # how many there are
    only_favourites: bool = False


@dataclass(frozen=True)
class NoSubject:
    """/portrait before /train."""

    is_training: bool


@dataclass(frozen=True)
class QueueStatus:
    jobs: tuple[JobView, ...]  # the person's own
    waiting: int  # everybody's
    workers: int


@dataclass(frozen=True)
class NothingToCancel:
    pass


@dataclass(frozen=True)
class Cancelled:
    kind: str  # "train", "portrait", "collection", …


@dataclass(frozen=True)
class JobFailed:
    """A job ended without a result. `reason` is a code of the contract; `reference` finds the log lines."""

    kind: str
    reason: str
    photos: tuple[PhotoVerdict, ...] = ()
    reference: str = ""
    can_retry: bool = False
    job_id: str = ""


@dataclass(frozen=True)
class AlreadyBusy:
    """The person has a job of this kind under way."""

    job: JobView


@dataclass(frozen=True)
class QuotaReached:
    """`again_in_s`: None if time is no cure.

    `what`: trainings, portraits, both with guild_ before them, open_portraits, subjects, own_templates, closed.
    """

    what: str
    limit: int
    again_in_s: float | None = None


@dataclass(frozen=True)
class Models:
    """The person's subjects, newest first, and which of them portraits are made of."""

    subjects: tuple[Subject, ...]
    current_id: str | None


@dataclass(frozen=True)
class SubjectCard:
    """One model: how good it is, what it paints, and what can be done with it."""

    subject: Subject
    is_current: bool
    portraits: int  # made with it


@dataclass(frozen=True)
class AskName:
    """What shall this model be called? `problem`: why the last answer would not do: empty, too_long."""

    subject: Subject
    problem: str = ""


@dataclass(frozen=True)
class ConfirmDeleteSubject:
    subject: Subject


@dataclass(frozen=True)
class Terms:
    """For how many days things are kept, and how long before their end a person is told."""

    collections: float = 2
    portraits: float = 30
    models: float = 90
    warning: float = 3


@dataclass(frozen=True)
class Privacy:
    photos: int
    subjects: tuple[Subject, ...]
    portraits: int
    terms: Terms = Terms()


@dataclass(frozen=True)
class Exporting:
    """The person's data are being packed."""


@dataclass(frozen=True)
class ExportPart:
    """An archive with the person's data, the `number`th of `count`."""

    key: str
    number: int
    count: int


@dataclass(frozen=True)
class Expiring:
    """What will be deleted in so many days unless the person says no."""

    portraits: int
    models: tuple[str, ...]
    days: float


@dataclass(frozen=True)
class Kept:
    """What was to be deleted begins its time anew."""

    portraits: int
    models: int


@dataclass(frozen=True)
class ConfirmForget:
    photos: int
    subjects: int
    portraits: int


@dataclass(frozen=True)
class ConfirmForgetAgain:
    """The second question, after the first yes."""


@dataclass(frozen=True)
class Forgotten:
    receipt: DeletionReceipt


@dataclass(frozen=True)
class Deleted:
    what: str  # "portrait", "template", "subject"


@dataclass(frozen=True)
class NotYours:
    """A button pressed by somebody else, or forged."""


@dataclass(frozen=True)
class OutOfDate:
    """A button of a message that no longer applies."""


@dataclass(frozen=True)
class PrivateChatOnly:
    """In a group: photos and portraits are dealt with in the private chat."""


@dataclass(frozen=True)
class NotUnderstood:
    pass


@dataclass(frozen=True)
class Refused:
    """The person may order nothing here. `reason`: blocked (by the operator), role, channel (by the server)."""

    reason: str


@dataclass(frozen=True)
class Reported:
    """A complaint about a portrait was taken."""


@dataclass(frozen=True)
class AdminSays:
    """To an admin: what was done, or numbers. `lines` are the same in every language."""

    what: str
    who: str = ""
    n: int = 0
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class AdminReport:
    """To an admin: a portrait about which somebody complained."""

    report_id: str
    picture_key: str
    who: str
    at: str


@dataclass(frozen=True)
class Apology:
    """Something of ours broke; `reference` is short and finds the log lines."""

    reference: str


Reply = (
    Welcome
    | Help
    | AskConsent
    | ConsentGiven
    | ConsentDeclined
    | CollectingPhotos
    | AlreadyCollecting
    | PhotoNotTaken
    | NoCollection
    | NotEnoughPhotos
    | Working
    | SubjectReady
    | Gallery
    | AskTemplatePicture
    | OwnTemplateChecking
    | OwnTemplateReady
    | OwnTemplateRefused
    | ChooseFace
    | NobodyChosen
    | PortraitsReady
    | OtherCandidates
    | FavouriteSet
    | OriginalFile
    | Results
    | NoSubject
    | QueueStatus
    | NothingToCancel
    | Cancelled
    | JobFailed
    | AlreadyBusy
    | QuotaReached
    | Models
    | SubjectCard
    | AskName
    | ConfirmDeleteSubject
    | Privacy
    | Exporting
    | ExportPart
    | Expiring
    | Kept
    | ConfirmForget
    | ConfirmForgetAgain
    | Forgotten
    | Deleted
    | NotYours
    | OutOfDate
    | PrivateChatOnly
    | NotUnderstood
    | Refused
    | Reported
    | AdminSays
    | AdminReport
    | Apology
)
