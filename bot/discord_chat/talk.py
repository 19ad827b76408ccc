"""From an interaction to what a person said: acknowledged at once, told to the core, never left "thinking"."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import aiohttp
import discord

from bot import texts
from bot.callback import ForgedButton, OldButton, unpack
from bot.core import App, Incoming
from bot.dialogue import CONSENT_VERSION, Asked, Filled, PictureNotTaken, Pressed, Said, SentPicture
from bot.discord_chat.chat import PLATFORM, TOKEN_LIFE_S, Answering, DiscordChat, is_hidden
from bot.discord_chat.dialogs import (
    NAME,
    PHOTOS,
    TEMPLATE,
    name_dialog,
    open_dialog,
    photos_dialog,
    submitted,
    template_dialog,
)
from bot.discord_chat.render import ADD_PHOTOS, ADD_TEMPLATE
from bot.domain import Address, Language, MessageRef
from bot.guilds import Place
from bot.replies import Apology, AskConsent, Choice, NotYours, OutOfDate, Reply

log = logging.getLogger(__name__)

DOWNLOADS_AT_ONCE = 4
DOWNLOAD_S = 60.0
FIRST_WORD_S = 20.0  # after this the "thinking…" goes away, if nothing was said
MAX_WAITING = 1000
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".gif"}
AGREE = Pressed(Choice("agree", CONSENT_VERSION))
OWN_TEMPLATE = Pressed(Choice("own_template"))
AnyInteraction = discord.Interaction[Any]
Attachments = Sequence[discord.Attachment]


@dataclass(frozen=True)
class Waiting:
    """Pictures that came before the consent: not even fetched until it is given."""

    opening: Said | None
    attachments: Attachments
    until: float


@dataclass
class Talk:
    """What every handler of the frontend needs."""

    app: App
    chat: DiscordChat
    secret: bytes
    max_file_bytes: int
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    thinking: dict[int, Answering] = field(default_factory=dict)  # by interaction
    waiting: OrderedDict[str, Waiting] = field(default_factory=OrderedDict)  # by person

    # --- what Discord delivers

    async def ask(self, interaction: AnyInteraction, opening: Said, attachments: Attachments = ()) -> None:
        """A command: acknowledged first (Discord gives three seconds), then told in order."""
        hidden = is_hidden(interaction)
        if await acknowledged(interaction.response.defer(ephemeral=hidden, thinking=True)):
            answering = await self._thinking(interaction, brings_picture=bool(attachments))
            await self._tell(interaction, answering, opening, attachments)

    async def press(self, interaction: AnyInteraction) -> None:
        """A button; nothing about it is in memory, so it works after a restart."""
        meant = self._choice_of(interaction)
        language = language_of(interaction)
        if not isinstance(meant, Choice):
            words = texts.alert(meant, language)
            await acknowledged(interaction.response.send_message(words, ephemeral=True))
        elif meant == ADD_PHOTOS:
            await acknowledged(open_dialog(interaction, photos_dialog(language, asks_consent=False)))
        elif meant == ADD_TEMPLATE:
            await acknowledged(open_dialog(interaction, template_dialog(language)))
        elif meant.action == "rename":
            await acknowledged(open_dialog(interaction, name_dialog(language, meant.value)))
        elif await acknowledged(interaction.response.defer()):
            answering = self.chat.opened(interaction, awaits_first=False)
            said = Pressed(meant)
            reply = await self.app.handle(self._incoming(interaction, said, "", self._pressed(interaction)))
            await self._alert(interaction, reply)
            waiting = self.waiting.pop(str(interaction.user.id), None) if meant.action in ("agree", "decline") else None
            if said == AGREE and waiting is not None and time.monotonic() < waiting.until:
                answering.brings_picture = True
                await self._tell(interaction, answering, waiting.opening, waiting.attachments)

    async def submit(self, interaction: AnyInteraction) -> None:
        """A dialog; one that a button opened leaves that button's message as it is."""
        what, hidden = submitted(interaction), is_hidden(interaction)
        if interaction.message is None:
            if not await acknowledged(interaction.response.defer(ephemeral=hidden, thinking=True)):
                return
            answering = await self._thinking(interaction, brings_picture=True)
        else:
            if not await acknowledged(interaction.response.defer()):
                return
            answering = self.chat.opened(interaction, awaits_first=False, brings_picture=True)
        match what.dialog:
            case dialog if dialog == PHOTOS:
                opening = AGREE if what.agrees else None
                name = Filled(Choice("name_model"), what.name) if what.name else None
                await self._tell(interaction, answering, opening, what.attachments, name)
            case dialog if dialog == NAME:
                filled = Filled(Choice("rename", what.about), what.name)
                reply = await self.app.handle(self._incoming(interaction, filled, "", self._pressed(interaction)))
                await self._alert(interaction, reply)
            case dialog if dialog == TEMPLATE:
                await self._tell(interaction, answering, OWN_TEMPLATE, what.attachments)
            case _:
                await self._alert(interaction, OutOfDate())

    async def guarded(self, interaction: AnyInteraction, handling: Coroutine[Any, Any, None]) -> None:
        """The border: what breaks is logged under a short reference, and the person hears of it."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await handling
        except Exception as error:  # noqa: BLE001
            await self.apologise(interaction, error)
        finally:
            self.tasks.discard(task)
        if interaction.id in self.thinking:
            tidying = asyncio.create_task(self._stop_thinking(interaction))
            self.tasks.add(tidying)
            tidying.add_done_callback(self.tasks.discard)

    async def apologise(self, interaction: AnyInteraction, error: Exception) -> None:
        reference = secrets.token_hex(3)
        log.error("an interaction failed, reference %s", reference, exc_info=error)
        await self._alert(interaction, Apology(reference))

    # --- telling the core

    async def _tell(
        self,
        interaction: AnyInteraction,
        answering: Answering,
        opening: Said | None,
        attachments: Attachments,
        after: Said | None = None,
    ) -> None:
        """The request, and its pictures if it was not refused. What there is to say, the core says in the chat."""
        if opening is not None:
            await self.app.handle(self._incoming(interaction, opening, "opening"))
        if answering.refusal is None:
            number = 0
            async for said in self._pictures(attachments):
                number += 1
                await self.app.handle(self._incoming(interaction, said, str(number)))
            if after is not None:
                await self.app.handle(self._incoming(interaction, after, "after"))
        elif isinstance(answering.refusal, AskConsent) and attachments:
            again = opening if opening == OWN_TEMPLATE else None
            self.waiting[str(interaction.user.id)] = Waiting(again, attachments, time.monotonic() + TOKEN_LIFE_S)
            while len(self.waiting) > MAX_WAITING:
                self.waiting.popitem(last=False)

    async def _pictures(self, attachments: Attachments) -> AsyncIterator[Said]:
        """The files in order, a few fetched ahead (their addresses expire, and memory is finite)."""
        ahead: list[asyncio.Task[Said]] = []
        for attachment in attachments:
            ahead.append(asyncio.create_task(self._picture(attachment)))
            if len(ahead) == DOWNLOADS_AT_ONCE:
                yield await ahead.pop(0)
        while ahead:
            yield await ahead.pop(0)

    async def _picture(self, attachment: discord.Attachment) -> Said:
        if attachment.size > self.max_file_bytes:
            return PictureNotTaken("too_big")
        if not _may_be_picture(attachment):
            return PictureNotTaken("not_a_picture")
        try:
            async with asyncio.timeout(DOWNLOAD_S):
                return SentPicture(await attachment.read(), is_original_file=True, group="upload")
        except (discord.HTTPException, aiohttp.ClientError, TimeoutError, OSError) as error:
            log.info("an attachment could not be fetched: %s", type(error).__name__)
            return PictureNotTaken("expired")

    def _choice_of(self, interaction: AnyInteraction) -> Choice | Reply:
        """What a button means for this person, or the reply that refuses it."""
        data: dict[str, Any] = dict(interaction.data or {})
        custom_id = str(data.get("custom_id", ""))
        try:
            return unpack(custom_id, str(interaction.user.id), self.secret)
        except OldButton:
            return OutOfDate()
        except ForgedButton:
            log.warning("a forged button was pressed")
            return NotYours()

    # --- answering without the core

    async def _alert(self, interaction: AnyInteraction, reply: Reply | None) -> None:
        if reply is None:
            return
        words = texts.alert(reply, language_of(interaction))
        answering = self.thinking.get(interaction.id)
        with contextlib.suppress(discord.HTTPException, aiohttp.ClientError):
            if not interaction.response.is_done():
                await interaction.response.send_message(words, ephemeral=True)
            elif answering is not None and answering.awaits_first:
                answering.awaits_first = False
                await interaction.edit_original_response(content=words)
            else:
                await interaction.followup.send(words, ephemeral=True)

    # --- "thinking…"

    async def _thinking(self, interaction: AnyInteraction, *, brings_picture: bool) -> Answering:
        """Noted on disk as well, so that a crash does not leave it there."""
        answering = self.chat.opened(interaction, awaits_first=True, brings_picture=brings_picture)
        self.thinking[interaction.id] = answering
        note = {
            "id": interaction.id,
            "application": interaction.application_id,
            "token": interaction.token,
            "language": language_of(interaction),
        }
        await self.app.inbox.store(PLATFORM, {interaction.id: json.dumps(note)})
        return answering

    async def _stop_thinking(self, interaction: AnyInteraction) -> None:
        answering = self.thinking[interaction.id]
        try:
            if answering.awaits_first:
                await asyncio.sleep(FIRST_WORD_S)
            async with answering.lock:
                if answering.awaits_first:
                    answering.awaits_first = False
                    with contextlib.suppress(discord.HTTPException, aiohttp.ClientError):
                        await interaction.delete_original_response()
            await self.app.inbox.done(PLATFORM, interaction.id)
        except Exception:  # the border of a task that nobody waits for
            log.exception("an interaction could not be tidied up")
        finally:
            del self.thinking[interaction.id]

    async def tidy_up(self, client: discord.Client) -> None:
        """After a start: what an earlier process left thinking gets a sentence."""
        for raw in await self.app.inbox.pending(PLATFORM):
            note = json.loads(raw)
            words = texts.dialog("restarted", note["language"])
            webhook = discord.Webhook.partial(note["application"], note["token"], client=client)
            with contextlib.suppress(discord.HTTPException, aiohttp.ClientError):
                message = await webhook.fetch_message("@original")  # type: ignore[arg-type]
                if message.flags.loading:
                    await message.edit(content=words)
            await self.app.inbox.done(PLATFORM, note["id"])

    def _pressed(self, interaction: AnyInteraction) -> MessageRef | None:
        message = interaction.message
        if message is None:
            return None
        name = f"e{message.id}" if message.flags.ephemeral else str(message.id)
        return MessageRef(_address(interaction), name, is_picture=bool(message.attachments))

    def _incoming(
        self, interaction: AnyInteraction, said: Said, part: str, pressed: MessageRef | None = None
    ) -> Incoming:
        return Incoming(
            address=_address(interaction),
            said=said,
            language=language_of(interaction),
            event_id=f"{PLATFORM}:{interaction.id}:{part}",
            pressed=pressed,
            place=place_of(interaction),
            is_private=True,  # answers are seen by this person alone, wherever the command was given
        )


async def acknowledged(answer: Coroutine[Any, Any, Any]) -> bool:
    """False when Discord no longer waits for it: the person was told so by Discord and will try again."""
    try:
        await answer
    except (discord.HTTPException, aiohttp.ClientError, OSError) as error:
        log.warning("an interaction could not be acknowledged: %s", error)
        return False
    return True


def language_of(interaction: AnyInteraction) -> Language:
    return "zh" if interaction.locale.value.lower().startswith("zh") else "en"


def place_of(interaction: AnyInteraction) -> Place | None:
    """The server in which it happens; None in direct messages."""
    if interaction.guild_id is None:
        return None
    # The library looks a member's roles up among those of servers that it knows, and without intents it knows none.
    roles = tuple(str(role_id) for role_id in getattr(interaction.user, "_roles", ()))
    may_manage = interaction.permissions.manage_guild or interaction.permissions.administrator
    channel = interaction.channel
    channel_id = channel.parent_id if isinstance(channel, discord.Thread) else interaction.channel_id
    return Place(str(interaction.guild_id), str(channel_id), roles, may_manage)


def asked_train(agrees: bool) -> Said:
    """What `/train` says; agreeing in the same breath is the consent."""
    return AGREE if agrees else Asked("train")


def _address(interaction: AnyInteraction) -> Address:
    # One conversation per person, wherever they talk to us: their direct messages.
    person = str(interaction.user.id)
    return Address(PLATFORM, person, person)


def _may_be_picture(attachment: discord.Attachment) -> bool:
    kind = str(attachment.content_type or "").lower()
    return kind.startswith("image/") or PurePath(attachment.filename).suffix.lower() in PICTURE_SUFFIXES
