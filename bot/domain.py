"""The bot's values and the rules that need no I/O."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

MIN_PHOTOS = 5
MAX_PHOTOS = 20
MAX_NAME = 32  # characters of a model's name
MOST_PEOPLE = 5  # subjects in one portrait
MOST_FACES = 20  # of a template

Platform = Literal["telegram", "discord"]
Language = Literal["en", "zh"]
Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of the picture
JobKind = Literal["train", "portrait", "inspect", "check_template"]


_ID_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_id() -> str:
    """A random id of our own (82 bits): never made of what people or platforms say."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(16))


def clean_name(text: str) -> str:
    """A name as it may be shown in one line: no control or direction characters, single spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


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
    keeps_photos: bool = False  # after the training, for a retraining
    retrains_id: str | None = None  # the subject whose place the new one takes

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
    preview_key: str | None = None  # its contact sheet: the reference photo, and what it paints
    photos: int = 0  # kept for a retraining


@dataclass(frozen=True)
class Template:
    template_id: str
    category: str
    title: dict[str, str]  # by language
    key: str  # blob
    owner_id: str | None = None  # None: built in, for everybody
    faces: int = 1


@dataclass(frozen=True)
class QueuePlace:
    """`position` 1 = next; 0 = running now. `eta_s` is measured over the last jobs of the kind, None while unknown.

    `is_served`: a worker is online. `is_starting`: all that are online still make themselves ready.
    """

    position: int
    eta_s: float | None
    is_served: bool = True
    is_starting: bool = False


@dataclass(frozen=True)
class Workers:
    """The workers that are alive. `one_engine`: their portraits wait behind trainings. `starting`: so many of them do
    not take every kind of job yet."""

    count: int
    one_engine: bool = False
    starting: int = 0

    @property
    def are_starting(self) -> bool:
        """All that there are."""
        return 0 < self.count == self.starting


@dataclass(frozen=True)
class Person:
    """Who speaks, as stored. `dialogue` is packed (bot/packing.py)."""

    user_id: str
    language: Language
    dialogue: dict[str, Any]


@dataclass(frozen=True)
class NewJob:
    """A job as it is decided. `payload` is the contract's job as plain data; `score` orders the queue, lowest first."""

    job_id: str
    user_id: str
    kind: JobKind
    address: Address
    payload: dict[str, Any]
    score: float
    session_id: str | None = None
    session_version: int | None = None
    subject_id: str | None = None
    template_id: str | None = None
    guild_id: str | None = None  # the Discord server in which it was ordered


@dataclass(frozen=True)
class StoredJob(NewJob):
    """A job as it is known. `shown` says how far its final state has come into the chat."""

    status: JobStatus = JobStatus.QUEUED
    attempt: int = 1
    stage: str | None = None
    fraction: float = 0.0
    preview_key: str | None = None
    failure: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    seen: tuple[int, int, int] = (0, 0, 0)  # attempt, run, seq of the newest event
    shown: Literal["no", "showing", "closing", "yes"] = "no"
    message: MessageRef | None = None
    created_at: datetime = datetime.min
    started_at: datetime | None = None
    finished_at: datetime | None = None

    def view(self, place: QueuePlace | None = None) -> JobView:
        return JobView(
            self.job_id, self.kind, self.status, self.stage, self.fraction, place=place, preview_key=self.preview_key
        )


@dataclass(frozen=True)
class JobView:
    """A job as its owner may see it."""

    job_id: str
    kind: JobKind
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
    is_favourite: bool = False


@dataclass(frozen=True)
class DeletionReceipt:
    """What /forget deleted, as counts by kind of thing."""

    counts: dict[str, int] = field(default_factory=dict)


_PENALTY_S = 600  # per open job of the same kind, a person's next one waits as if it had been ordered this much later


def queue_score(ordered_at: datetime, open_jobs: int) -> float:
    """The place in its queue, in seconds, of a job of somebody with that many open jobs there: fair over people, and
    nobody starves."""
    return ordered_at.timestamp() + open_jobs * _PENALTY_S


def expected_wait_s(ahead: list[tuple[JobKind, float]], usual_s: dict[JobKind, float], workers: int) -> float | None:
    """How long the jobs `ahead` (kind, fraction still to do) take; None when a kind's usual time is not known yet."""
    if any(kind not in usual_s for kind, _ in ahead):
        return None
    return sum(usual_s[kind] * share for kind, share in ahead) / max(workers, 1)
