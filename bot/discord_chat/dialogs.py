"""Dialogs: photos of a subject (10 + 10) with a name, a template of one's own, a new name.

A dialog is sent and then known by its custom ids alone, so one that was open while the bot restarted still works.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import discord
from discord import ui

from bot import texts
from bot.dialogue import CONSENT_VERSION
from bot.domain import MAX_NAME, MIN_PHOTOS, Language
from bot.replies import AskConsent

log = logging.getLogger(__name__)

PHOTOS, TEMPLATE, NAME = "photos", "template", "name"
FIRST, SECOND, AGREE = "first", "second", "agree"
PER_UPLOAD = 10  # Discord's most for one upload

AnyInteraction = discord.Interaction[Any]


@dataclass(frozen=True)
class Submitted:
    """What came back. `agrees`: the statement of the consent was ticked. `about`: the id that the dialog carried."""

    dialog: str
    about: str
    agrees: bool
    name: str
    attachments: tuple[discord.Attachment, ...]


def photos_dialog(language: Language, *, asks_consent: bool) -> ui.Modal:
    """Up to twenty photos at once; where they may be the first, with the consent that has to come before."""
    dialog = ui.Modal(title=texts.dialog("photos_title", language), custom_id=PHOTOS, timeout=None)
    if asks_consent:
        dialog.add_item(ui.TextDisplay(discord.utils.escape_markdown(_consent(language))))
    least, label = (MIN_PHOTOS, "photos_first") if asks_consent else (1, "photos_more")
    first: ui.FileUpload[Any] = ui.FileUpload(custom_id=FIRST, min_values=least, max_values=PER_UPLOAD)
    second: ui.FileUpload[Any] = ui.FileUpload(custom_id=SECOND, min_values=0, max_values=PER_UPLOAD, required=False)
    dialog.add_item(ui.Label(text=texts.dialog(label, language), component=first))
    dialog.add_item(ui.Label(text=texts.dialog("photos_second", language), component=second))
    if asks_consent:
        dialog.add_item(ui.Label(text=texts.dialog("photos_name", language), component=_name_field(required=False)))
        # A group of one box, because a box alone cannot be required.
        statement = discord.CheckboxGroupOption(
            label=texts.dialog("photos_agree_more", language), value=CONSENT_VERSION
        )
        box: ui.CheckboxGroup[Any] = ui.CheckboxGroup(custom_id=AGREE, options=[statement], min_values=1, max_values=1)
        dialog.add_item(ui.Label(text=texts.dialog("photos_agree", language), component=box))
    return dialog


def template_dialog(language: Language) -> ui.Modal:
    """One picture that becomes a template of the person's own."""
    dialog = ui.Modal(title=texts.dialog("template_title", language), custom_id=TEMPLATE, timeout=None)
    picture: ui.FileUpload[Any] = ui.FileUpload(custom_id=FIRST, min_values=1, max_values=1)
    dialog.add_item(ui.Label(text=texts.dialog("template_picture", language), component=picture))
    return dialog


def name_dialog(language: Language, subject_id: str) -> ui.Modal:
    """What a model is called from now on."""
    dialog = ui.Modal(title=texts.dialog("name_title", language), custom_id=f"{NAME}:{subject_id}", timeout=None)
    dialog.add_item(ui.Label(text=texts.dialog("name_new", language), component=_name_field(required=True)))
    return dialog


def _name_field(*, required: bool) -> ui.TextInput[Any]:
    return ui.TextInput(custom_id=NAME, max_length=MAX_NAME, required=required)


async def open_dialog(interaction: AnyInteraction, dialog: ui.Modal) -> None:
    dialog.stop()  # the library would keep it in memory until it comes back, which it may never do
    await interaction.response.send_modal(dialog)


def submitted(interaction: AnyInteraction) -> Submitted:
    """Reads the answer to a dialog, of this process or of an earlier one. What is not of its shape counts as empty."""
    data: dict[str, Any] = dict(interaction.data or {})
    fields = [_record(_record(label).get("component")) for label in _list(data.get("components"))]
    words = {str(field.get("custom_id", "")): str(field.get("value") or "") for field in fields}
    values = {str(field.get("custom_id", "")): _list(field.get("values")) for field in fields}
    files = _record(_record(data.get("resolved")).get("attachments"))
    ids = [str(one) for upload in (FIRST, SECOND) for one in values.get(upload, ())]
    attachments = [_attachment(files[one], interaction) for one in ids if one in files]
    dialog, _, about = str(data.get("custom_id", "")).partition(":")
    return Submitted(
        dialog,
        about,
        bool(values.get(AGREE)),
        words.get(NAME, ""),
        tuple(file for file in attachments if file is not None),
    )


def _attachment(data: Any, interaction: AnyInteraction) -> discord.Attachment | None:
    """The library makes attachments of dialogs only for dialogs that it has in memory."""
    try:
        file = discord.Attachment(data=data, state=interaction._state)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        file = None
    if file is None or not (isinstance(file.size, int) and isinstance(file.filename, str)):
        log.warning("a file of a dialog is described as no file is")
        return None
    return file


def _record(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _consent(language: Language) -> str:
    words = texts.say(AskConsent(CONSENT_VERSION), language, "discord")
    return "\n".join(words.lines[:-1])  # the last line is what the box says
