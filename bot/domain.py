"""The bot's values and the rules that need no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

MIN_PHOTOS = 5
MAX_PHOTOS = 20

Platform = Literal["telegram", "discord"]
Language = Literal["en", "zh"]


class JobStatus(StrEnum):
    QUEUED = "queued"  # decided, stands in the outbox or in arq
    RUNNING = "running"  # a worker reported that it started
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


@dataclass(frozen=True)
class Address:
    """Where a conversation takes place: a chat (or a channel) of a platform, and who talks there."""

    platform: Platform
    chat: str
    person: str  # the platform's id of the person


@dataclass(frozen=True)
class MessageRef:
    """A message of ours that can be edited or deleted."""

    address: Address
    message_id: str
    is_picture: bool = False


@dataclass(frozen=True)
class PhotoVerdict:
    """What is known of one photo of a collection. `number` is its place in the order the person sent them, from 1.

    `verdict` is "unknown" until a worker has looked at it.
    """

    photo_id: str
    number: int
    verdict: Literal["unknown", "ok", "warning", "refused"] = "unknown"
    reason: str | None = None
    is_reference: bool = False

    @property
    def is_usable(self) -> bool:
        return self.verdict in ("ok", "warning")


@dataclass(frozen=True)
class Collection:
    """The photos that a person has handed over for one training, in order. `is_checking`: verdicts are outstanding."""

    session_id: str
    photos: tuple[PhotoVerdict, ...]
    is_checking: bool

    @property
    def usable(self) -> int:
        return sum(photo.is_usable for photo in self.photos)

    @property
    def can_start(self) -> bool:
        return not self.is_checking and self.usable >= MIN_PHOTOS


@dataclass(frozen=True)
class Subject:
    subject_id: str
    name: str
    created_at: datetime
    likeness: float | None  # of the merged LoRA to held-out photos
    real_likeness: float | None  # between the subject's own photos


@dataclass(frozen=True)
class Template:
    template_id: str
    category: str
    title: dict[str, str]  # by language
    key: str  # blob
    owner_id: str | None = None  # None: built in, for everybody


@dataclass(frozen=True)
class QueuePlace:
    """`position` 1 = next; 0 = running now. `eta_s` is measured over the last jobs of the kind, None while unknown."""

    position: int
    eta_s: float | None


@dataclass(frozen=True)
class JobView:
    """A job as its owner may see it."""

    job_id: str
    kind: Literal["train", "portrait", "inspect", "check_template"]
    status: JobStatus
    stage: str | None = None
    fraction: float = 0.0
    place: QueuePlace | None = None
    preview_key: str | None = None


@dataclass(frozen=True)
class PortraitView:
    portrait_id: str
    key: str
    width: int
    height: int
    likeness: float | None
    notes: tuple[str, ...] = ()
    template: Template | None = None
    subject: Subject | None = None
    created_at: datetime | None = None


@dataclass(frozen=True)
class DeletionReceipt:
    """What /forget deleted, as counts by kind of thing."""

    counts: dict[str, int] = field(default_factory=dict)
