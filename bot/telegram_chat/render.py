"""Replies as Telegram messages: HTML, pictures with captions, albums, inline keyboards. A pure function.

Telegram's limits (https://core.telegram.org/bots/api): text 4096, caption 1024, album 2 to 10 pictures and no keyboard,
so an album is followed by a message that holds the buttons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import PurePath

from telegram import InlineKeyboardButton, InlineKeyboardMarkup

from bot import replies as r
from bot import texts
from bot.choices import rows_of
from bot.domain import JobStatus, Language, PortraitView, Template
from bot.replies import Choice, Reply

MAX_TEXT = 4096
MAX_CAPTION = 1024
MAX_ALBUM = 10
BAR_CELLS = 10


@dataclass(frozen=True)
class Text:
    html: str
    keyboard: InlineKeyboardMarkup | None = None


@dataclass(frozen=True)
class Picture:
    """Blob `key` as a photo. `is_shared`: everybody sees the same one, so it is uploaded once."""

    key: str
    html: str = ""
    keyboard: InlineKeyboardMarkup | None = None
    is_shared: bool = False


@dataclass(frozen=True)
class Album:
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class File:
    """Blob `key` as a file, untouched by Telegram."""

    key: str
    name: str
    html: str = ""
    keyboard: InlineKeyboardMarkup | None = None


Message = Text | Picture | Album | File


@dataclass(frozen=True)
class Renderer:
    """`pack` makes callback data of a choice for the person; `bot_name` is the bot's @name, for links."""

    language: Language
    pack: Callable[[Choice], str]
    bot_name: str

    def messages(self, reply: Reply) -> list[Message]:
        match reply:
            case r.Gallery(template=template) | r.OwnTemplateReady(template=template):
                return [self._template(template, reply)]
            case r.Working(job=job, template=template):
                return [self._working(reply, job.preview_key, template)]
            case r.AdminReport(picture_key=key) | r.ChooseFace(picture_key=key) | r.SubjectReady(preview_key=str(key)):
                return [Picture(key, self._html(reply, MAX_CAPTION), self._keyboard(reply))]
            case r.SubjectCard(subject=subject) | r.ConfirmDeleteSubject(subject=subject) if subject.preview_key:
                return [Picture(subject.preview_key, self._html(reply, MAX_CAPTION), self._keyboard(reply))]
            case (
                r.PortraitsReady(portraits=portraits)
                | r.OtherCandidates(portraits=portraits)
                | r.Results(portraits=portraits)
            ):
                return self._portraits(portraits, reply)
            case r.ExportPart(key=key):
                return [File(key, PurePath(key).name, self._html(reply, MAX_CAPTION), self._keyboard(reply))]
            case r.OriginalFile(portrait=portrait):
                name = f"portrait-{portrait.portrait_id}.jpg"
                return [File(portrait.key, name, self._html(reply, MAX_CAPTION), self._keyboard(reply))]
            case r.PrivateChatOnly():
                return [Text(self._html(reply, MAX_TEXT), self._private_chat())]
            case _:
                return [Text(self._html(reply, MAX_TEXT), self._keyboard(reply))]

    def _html(self, reply: Reply, limit: int) -> str:
        """Title in bold, lines below. The limit counts characters after parsing, so it is kept before escaping."""
        words = texts.say(reply, self.language)
        bar = [progress_bar(reply.job.fraction)] if isinstance(reply, r.Working) and _is_under_way(reply) else []
        title = _clipped(words.title, limit)
        body = _clipped("\n".join((*bar, *words.lines)), limit - utf16_length(title) - 1)
        return "\n".join(part for part in (f"<b>{escape(title)}</b>" if title else "", escape(body)) if part)

    def _keyboard(self, reply: Reply) -> InlineKeyboardMarkup | None:
        rows = [
            [
                InlineKeyboardButton(texts.label(button, self.language), callback_data=self.pack(button.choice))
                for button in row
            ]
            for row in rows_of(reply)
        ]
        return InlineKeyboardMarkup(rows) if rows else None

    def _private_chat(self) -> InlineKeyboardMarkup:
        link = f"https://t.me/{self.bot_name}?start=train"
        return InlineKeyboardMarkup([[InlineKeyboardButton(f"@{self.bot_name}", url=link)]])

    def _template(self, template: Template, reply: Reply) -> Picture:
        html, keyboard = self._html(reply, MAX_CAPTION), self._keyboard(reply)
        return Picture(template.key, html, keyboard, is_shared=template.owner_id is None)

    def _working(self, reply: r.Working, preview_key: str | None, template: Template | None) -> Message:
        """The newest picture of the work, else the template it goes into, else words alone."""
        html, keyboard = self._html(reply, MAX_CAPTION), self._keyboard(reply)
        if preview_key is not None:
            return Picture(preview_key, html, keyboard)
        if template is not None:
            return Picture(template.key, html, keyboard, is_shared=template.owner_id is None)
        return Text(html, keyboard)

    def _portraits(self, portraits: tuple[PortraitView, ...], reply: Reply) -> list[Message]:
        if not portraits:
            return [Text(self._html(reply, MAX_TEXT), self._keyboard(reply))]
        if len(portraits) == 1:
            return [Picture(portraits[0].key, self._html(reply, MAX_CAPTION), self._keyboard(reply))]
        pictures = tuple(Picture(portrait.key, str(number)) for number, portrait in enumerate(portraits, 1))
        albums: list[Message] = [Album(part) for part in _in_albums(pictures)]
        return [*albums, Text(self._html(reply, MAX_TEXT), self._keyboard(reply))]


def progress_bar(fraction: float) -> str:
    """`▰▰▰▰▰▰▱▱▱▱ 60 %`"""
    done = round(fraction * BAR_CELLS)
    return f"{'▰' * done}{'▱' * (BAR_CELLS - done)} {round(fraction * 100)} %"


def utf16_length(text: str) -> int:
    """Telegram counts UTF-16 code units: an emoji is two."""
    return len(text.encode("utf-16-le")) // 2


def _is_under_way(reply: r.Working) -> bool:
    return reply.job.status is JobStatus.RUNNING


def _clipped(text: str, limit: int) -> str:
    if utf16_length(text) <= limit:
        return text
    kept = text.encode("utf-16-le")[: 2 * (limit - 1)].decode("utf-16-le", "ignore")
    return f"{kept}…"


def _in_albums(pictures: tuple[Picture, ...]) -> list[tuple[Picture, ...]]:
    """At most ten each, and never one alone: an album has two at least."""
    count = -(-len(pictures) // MAX_ALBUM)
    size, longer = divmod(len(pictures), count)
    ends = [size * i + min(i, longer) for i in range(count + 1)]
    return [pictures[start:end] for start, end in pairwise(ends)]
