"""The tables. Only bot/db reads them; migrations follow them (a test compares).

Ids are our own random strings. Times are UTC with a time zone. What belongs to a user hangs on `users` by foreign keys
that delete with it, so that forgetting a user is deleting one row.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Moment(TypeDecorator[datetime]):
    """A point in time. SQLite drops the zone on the way in, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {datetime: Moment, dict[str, Any]: JSON, list[Any]: JSON, bool: Boolean, float: Float}  # noqa: RUF012


def _id() -> Mapped[str]:
    return mapped_column(String(40), primary_key=True)


def _of_user() -> Mapped[str]:
    return mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)


class User(Base):
    __tablename__ = "users"

    id: Mapped[str] = _id()
    created_at: Mapped[datetime]
    current_subject_id: Mapped[str | None] = mapped_column(String(40))


class UserKey(Base):
    """The key under which all blobs of a user are sealed, wrapped by a master key: without this row they are noise."""

    __tablename__ = "user_keys"

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    wrapped: Mapped[str] = mapped_column(String(200))


class Identity(Base):
    """Who a user is on a platform. `is_dead`: the person blocked the bot; nothing is sent until they speak again."""

    __tablename__ = "identities"

    platform: Mapped[str] = mapped_column(String(16), primary_key=True)
    person: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[str] = _of_user()
    language: Mapped[str] = mapped_column(String(8))
    is_dead: Mapped[bool] = mapped_column(default=False)
    dialogue: Mapped[dict[str, Any]]


class Consent(Base):
    __tablename__ = "consents"

    id: Mapped[str] = _id()
    user_id: Mapped[str] = _of_user()
    version: Mapped[str] = mapped_column(String(32))
    locale: Mapped[str] = mapped_column(String(8))
    platform: Mapped[str] = mapped_column(String(16))
    agreed_at: Mapped[datetime]


class Turn(Base):
    """An event of a platform that was handled, and what is still to be said because of it.

    `tellings` is emptied and the person's address removed when everything was said; the rest only keeps the event from
    being handled twice.
    """

    __tablename__ = "turns"
    __table_args__ = (
        Index(
            "ix_turns_unsaid",
            *("platform", "person", "at"),
            postgresql_where=text("said_at IS NULL"),
            sqlite_where=text("said_at IS NULL"),
        ),
    )

    platform: Mapped[str] = mapped_column(String(16), primary_key=True)
    event_id: Mapped[str] = mapped_column(String(96), primary_key=True)
    chat: Mapped[str | None] = mapped_column(String(64))
    person: Mapped[str | None] = mapped_column(String(64))
    language: Mapped[str | None] = mapped_column(String(8))
    tellings: Mapped[list[Any]]
    pressed_message: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    at: Mapped[datetime] = mapped_column(index=True)
    said_at: Mapped[datetime | None]


class Session(Base):
    """A collection of photos. `version` counts changes to the set; a worker has judged it up to `checked_version`.

    `name` is what its model shall be called; `retrains_id` the model that the new one takes the place of.
    """

    __tablename__ = "sessions"
    __table_args__ = (Index("ix_sessions_state", "state", "touched_at"),)

    id: Mapped[str] = _id()
    user_id: Mapped[str] = _of_user()
    platform: Mapped[str] = mapped_column(String(16))
    chat: Mapped[str] = mapped_column(String(64))
    person: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))  # collecting, training, trained
    name: Mapped[str | None] = mapped_column(String(64))
    keeps_photos: Mapped[bool] = mapped_column(default=False)
    retrains_id: Mapped[str | None] = mapped_column(String(40))
    version: Mapped[int] = mapped_column(default=0)
    checked_version: Mapped[int] = mapped_column(default=0)
    reference_photo_id: Mapped[str | None] = mapped_column(String(40))
    message_id: Mapped[str | None] = mapped_column(String(64))
    message_is_picture: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    touched_at: Mapped[datetime]


class Photo(Base):
    __tablename__ = "photos"
    __table_args__ = (UniqueConstraint("session_id", "number"),)

    id: Mapped[str] = _id()
    user_id: Mapped[str] = _of_user()
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    number: Mapped[int]
    verdict: Mapped[str] = mapped_column(String(16), default="unknown")
    reason: Mapped[str | None] = mapped_column(String(32))
    measures: Mapped[dict[str, Any]]
    is_stored: Mapped[bool] = mapped_column(default=True)  # False after the training that used it
    created_at: Mapped[datetime]


class Subject(Base):
    __tablename__ = "subjects"

    id: Mapped[str] = _id()
    user_id: Mapped[str] = _of_user()
    name: Mapped[str] = mapped_column(String(64))
    prefix: Mapped[str] = mapped_column(String(300))
    likeness: Mapped[float | None]
    real_likeness: Mapped[float | None]
    preview_key: Mapped[str | None] = mapped_column(String(300))
    session_id: Mapped[str | None] = mapped_column(String(40))  # whose photos it learnt from
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]
    warned_at: Mapped[datetime | None]


class OwnTemplate(Base):
    __tablename__ = "templates"

    id: Mapped[str] = _id()
    user_id: Mapped[str] = _of_user()
    number: Mapped[int]
    key: Mapped[str] = mapped_column(String(300))
    faces: Mapped[int | None]  # None until a worker has looked
    boxes: Mapped[list[Any] | None] = mapped_column(JSON)  # of the faces, left to right, as shares of the picture
    created_at: Mapped[datetime]


class Job(Base):
    """One unit of work. `payload` is the contract's job; what it is about and where it is shown stands beside it.

    `seen_*` fence off stale events. `shown` goes "no" -> "showing" (-> "closing", when the outcome stands and
    the message of the progress has yet to be ended) -> "yes" for the final state.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_queue", "status", "kind", "score"),
        Index("ix_jobs_ended", "status", "kind", "finished_at"),
        Index("ix_jobs_guild", "guild_id", "created_at"),
        Index(
            "ix_jobs_unshown", "status", postgresql_where=text("shown <> 'yes'"), sqlite_where=text("shown <> 'yes'")
        ),
    )

    id: Mapped[str] = _id()
    user_id: Mapped[str] = _of_user()
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(default=1)
    payload: Mapped[dict[str, Any]]
    session_id: Mapped[str | None] = mapped_column(String(40), index=True)
    session_version: Mapped[int | None]
    subject_id: Mapped[str | None] = mapped_column(String(40))
    template_id: Mapped[str | None] = mapped_column(String(64))
    platform: Mapped[str] = mapped_column(String(16))
    chat: Mapped[str] = mapped_column(String(64))
    person: Mapped[str] = mapped_column(String(64))
    message_id: Mapped[str | None] = mapped_column(String(64))
    message_is_picture: Mapped[bool] = mapped_column(default=False)
    stage: Mapped[str | None] = mapped_column(String(32))
    fraction: Mapped[float] = mapped_column(default=0.0)
    preview_key: Mapped[str | None] = mapped_column(String(300))
    failure: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    seen_attempt: Mapped[int] = mapped_column(default=0)
    seen_run: Mapped[int] = mapped_column(default=0)
    seen_seq: Mapped[int] = mapped_column(default=0)
    shown: Mapped[str] = mapped_column(String(8), default="no")
    score: Mapped[float] = mapped_column(default=0.0)
    guild_id: Mapped[str | None] = mapped_column(String(32))  # the Discord server in which it was ordered
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Portrait(Base):
    __tablename__ = "portraits"

    id: Mapped[str] = _id()
    user_id: Mapped[str] = _of_user()
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    subject_id: Mapped[str | None] = mapped_column(String(40))
    template_id: Mapped[str | None] = mapped_column(String(64))
    number: Mapped[int]
    key: Mapped[str] = mapped_column(String(300))
    width: Mapped[int]
    height: Mapped[int]
    likeness: Mapped[float | None]
    notes: Mapped[list[Any]]
    is_favourite: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(index=True)
    kept_at: Mapped[datetime | None]  # when the person last asked to keep it
    warned_at: Mapped[datetime | None]  # when they were told that it is about to be deleted


class Outbox(Base):
    """Jobs decided but not yet in arq. Written with the job row; `sent_at` is set once arq has it."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index(
            "ix_outbox_unsent",
            "next_try_at",
            postgresql_where=text("sent_at IS NULL"),
            sqlite_where=text("sent_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    attempt: Mapped[int]
    created_at: Mapped[datetime]
    next_try_at: Mapped[datetime]
    tries: Mapped[int] = mapped_column(default=0)
    last_error: Mapped[str | None] = mapped_column(Text)
    sent_at: Mapped[datetime | None]


class Inbox(Base):
    """Raw updates of a platform, until they are handled."""

    __tablename__ = "inbox"

    platform: Mapped[str] = mapped_column(String(16), primary_key=True)
    update_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    raw: Mapped[str] = mapped_column(Text)
    received_at: Mapped[datetime]


class Message(Base):
    """A message of ours in a user's chat, so that /forget can delete it."""

    __tablename__ = "messages"

    platform: Mapped[str] = mapped_column(String(16), primary_key=True)
    chat: Mapped[str] = mapped_column(String(64), primary_key=True)
    message_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[str] = _of_user()
    person: Mapped[str] = mapped_column(String(64))
    is_picture: Mapped[bool]
    portrait_job_id: Mapped[str | None] = mapped_column(String(40), index=True)
    at: Mapped[datetime]


class Erasure(Base):
    """What a forgotten person left outside of the database: written with the deletion of their rows, deleted when done.

    `jobs`: [id, attempts] each; `messages`: those of ours that are still to be deleted.
    """

    __tablename__ = "erasures"

    user_id: Mapped[str] = _id()
    jobs: Mapped[list[Any]]
    messages: Mapped[list[Any]]
    at: Mapped[datetime]


class KeptFile(Base):
    """A platform's id of a picture uploaded before."""

    __tablename__ = "kept_files"

    platform: Mapped[str] = mapped_column(String(16), primary_key=True)
    key: Mapped[str] = mapped_column(String(300), primary_key=True)
    file_id: Mapped[str] = mapped_column(Text)


class Block(Base):
    """Somebody whom the operator has shut out. It outlives /forget, or that would be the way around it."""

    __tablename__ = "blocks"

    platform: Mapped[str] = mapped_column(String(16), primary_key=True)
    person: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[datetime]


class Grant(Base):
    """More than the daily limit, for a day."""

    __tablename__ = "grants"

    id: Mapped[str] = _id()
    user_id: Mapped[str] = _of_user()
    kind: Mapped[str] = mapped_column(String(16))
    amount: Mapped[int]
    at: Mapped[datetime]


class Guild(Base):
    """What a Discord server has settled for its members; None and [] leave it open."""

    __tablename__ = "guilds"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    roles: Mapped[list[Any]]
    channels: Mapped[list[Any]]
    trainings_per_day: Mapped[int | None]
    portraits_per_day: Mapped[int | None]
    is_spoiler: Mapped[bool] = mapped_column(default=False)


class Report(Base):
    """A portrait about which somebody complained. `state`: open, dismissed, deleted, blocked."""

    __tablename__ = "reports"

    id: Mapped[str] = _id()
    user_id: Mapped[str] = _of_user()  # who reported it
    portrait_id: Mapped[str] = mapped_column(ForeignKey("portraits.id", ondelete="CASCADE"), index=True)
    state: Mapped[str] = mapped_column(String(16), default="open")
    at: Mapped[datetime]


class Switch(Base):
    """What the operator has turned on: "drain" takes no new orders."""

    __tablename__ = "switches"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    at: Mapped[datetime]
