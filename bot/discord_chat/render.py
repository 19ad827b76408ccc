"""Replies as Discord cards: a container with words, pictures and buttons (components V2). A pure function.

Discord's limits (https://docs.discord.com/developers/components/reference): 4000 characters and 40 components in a
message, 10 pictures in a gallery, 5 buttons in a row, 80 characters on a button, 100 in a custom id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from discord.utils import escape_markdown

from bot import replies as r
from bot import texts
from bot.choices import Button, rows_of
from bot.domain import JobStatus, Language, PortraitView
from bot.replies import Choice, Reply

MAX_TEXT = 4000
MAX_COMPONENTS = 40
MAX_PICTURES = 10
MAX_ROW = 5
MAX_LABEL = 80
BAR_CELLS = 12

# Choices that only Discord has: there, pictures come through a dialog that a button opens.
ADD_PHOTOS = Choice("add_photos")
ADD_TEMPLATE = Choice("add_template")


@dataclass(frozen=True)
class CardButton:
    label: str
    custom_id: str
    is_danger: bool = False
    is_primary: bool = False


@dataclass(frozen=True)
class Card:
    """`pictures` and `files` are blob keys; a file is offered for download, untouched.

    `if_too_big` is added to the text when a file is too large for Discord.
    """

    text: str
    if_too_big: str
    pictures: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    rows: tuple[tuple[CardButton, ...], ...] = ()
    is_spoiler: bool = False  # pictures are shown at a click


@dataclass(frozen=True)
class Renderer:
    """`pack` makes a custom id of a choice for the person."""

    language: Language
    pack: Callable[[Choice], str]

    def card(self, reply: Reply) -> Card:
        words = texts.say(reply, self.language, "discord")
        bar = [progress_bar(reply.job.fraction)] if isinstance(reply, r.Working) and _is_under_way(reply) else []
        title = f"### {escape_markdown(words.title)}" if words.title else ""
        body = [*bar, *(escape_markdown(line) for line in words.lines)]
        too_big = texts.dialog("too_big_to_show", self.language)
        text = _clipped("\n".join(part for part in (title, *body) if part), MAX_TEXT - len(too_big) - 1)
        pictures, files = _pictures(reply), _files(reply)
        is_spoiler = isinstance(reply, r.PortraitsReady) and reply.is_spoiler
        taken = 2 + bool(pictures) + len(files)  # the container and its words count too
        return Card(text, too_big, pictures, files, self._rows(reply, MAX_COMPONENTS - taken), is_spoiler)

    def _rows(self, reply: Reply, room: int) -> tuple[tuple[CardButton, ...], ...]:
        """As many rows as there is room for; a row counts as one component more than it has buttons."""
        wanted = _without_twins((*_extra_rows(reply), *rows_of(reply)))
        rows = [row[at : at + MAX_ROW] for row in wanted for at in range(0, len(row), MAX_ROW)]
        kept = []
        for row in rows:
            room -= 1 + len(row)
            if room >= 0:
                kept.append(tuple(self._button(button) for button in row))
        return tuple(kept)

    def _button(self, button: Button) -> CardButton:
        action = button.choice.action
        return CardButton(
            label=texts.label(button, self.language)[:MAX_LABEL],
            custom_id=self.pack(button.choice),
            is_danger=action.startswith(("delete", "forget")) and action != "forget_no",
            is_primary=action in ("start", "use", "agree", "train", ADD_PHOTOS.action, ADD_TEMPLATE.action),
        )


def progress_bar(fraction: float) -> str:
    """A bar that reads the same in every font: `▰▰▰▰▱▱▱▱▱▱▱▱` 33 %."""
    done = round(fraction * BAR_CELLS)
    return f"`{'▰' * done}{'▱' * (BAR_CELLS - done)}` {round(fraction * 100)} %"


def _extra_rows(reply: Reply) -> tuple[tuple[Button, ...], ...]:
    match reply:
        case r.CollectingPhotos(photos=photos, most=most) if len(photos) < most:
            return ((Button(ADD_PHOTOS),),)
        case r.AskTemplatePicture():
            return ((Button(ADD_TEMPLATE),),)
        case r.AskName(subject=subject):
            return ((Button(Choice("rename", subject.subject_id)),),)
        case _:
            return ()


def _without_twins(rows: tuple[tuple[Button, ...], ...]) -> list[list[Button]]:
    """Discord takes a custom id once in a message; of two pages, forth and back lead to the same one: forth stays."""
    last = {button.choice: button for row in rows for button in row}
    kept = ([button for button in row if last[button.choice] is button] for row in rows)
    return [row for row in kept if row]


def _pictures(reply: Reply) -> tuple[str, ...]:
    match reply:
        case r.Gallery(template=template) | r.OwnTemplateReady(template=template):
            return (template.key,)
        case r.Working(job=job, template=template):
            key = job.preview_key or (template.key if template else None)
            return (key,) if key else ()
        case r.AdminReport(picture_key=key):
            return (key,)
        case r.SubjectReady(preview_key=str(key)):
            return (key,)
        case r.SubjectCard(subject=subject) | r.ConfirmDeleteSubject(subject=subject) if subject.preview_key:
            return (subject.preview_key,)
        case r.ChooseFace(picture_key=key):
            return (key,)
        case (
            r.PortraitsReady(portraits=portraits)
            | r.OtherCandidates(portraits=portraits)
            | r.Results(portraits=portraits)
        ):
            return _keys(portraits)
        case _:
            return ()


def _files(reply: Reply) -> tuple[str, ...]:
    match reply:
        case r.OriginalFile(portrait=portrait):
            return (portrait.key,)
        case r.ExportPart(key=key):
            return (key,)
        case _:
            return ()


def _keys(portraits: tuple[PortraitView, ...]) -> tuple[str, ...]:
    return tuple(portrait.key for portrait in portraits[:MAX_PICTURES])


def _is_under_way(reply: r.Working) -> bool:
    return reply.job.status is JobStatus.RUNNING


def _clipped(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
