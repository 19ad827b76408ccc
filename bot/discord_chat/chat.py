"""The port to Discord: sends, edits and deletes messages, with one kind of failure (ChatError).

An interaction (a command, a button) can be answered for fifteen minutes by its token, in the place where it happened
and seen by that person alone. After that, and for everything that nobody asked for just now, there is the person's
direct-message channel. A message id that begins with "e" is such an answer; the tokens are only kept in memory, so
after a restart an answer is not edited any more but said again as a direct message.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from typing import Any, TypeVar

import aiohttp
import discord
from discord import ui

from bot import replies as r
from bot.callback import pack
from bot.chat import ChatError
from bot.core import App
from bot.discord_chat.render import MAX_TEXT, Card, CardButton, Renderer
from bot.domain import Address, Language, MessageRef, Platform
from bot.pictures import fitting
from bot.replies import Reply
from gpu_worker.contract.blobs import BlobNotFound

T = TypeVar("T")
log = logging.getLogger(__name__)

PLATFORM: Platform = "discord"
TOKEN_LIFE_S = 14 * 60.0  # Discord's fifteen minutes, less a minute to take an answer over into a direct message
TAKE_OVER_S = 50.0  # of that minute
CALL_S = 60.0  # one request, with the library's own waiting for rate limits
EDITS_END_S = 55 * 60  # edits of messages older than an hour are rationed (30046)
MAX_REMEMBERED = 5000
MAX_FILE_BYTES = discord.utils.DEFAULT_FILE_SIZE_LIMIT_BYTES
MAX_REQUEST_BYTES = 24 * 1024 * 1024  # of 25 MiB, with room for the words
# https://docs.discord.com/developers/topics/opcodes-and-status-codes
GONE = {10003, 10008, 10015}  # channel, message or webhook is not there any more
TOO_OLD_TO_EDIT = 30046
# What nothing that is asked before it has been said can answer: it would only stand beside its own answer.
REFUSALS = (r.AskConsent, r.AlreadyBusy, r.QuotaReached)


class NotThere(ChatError):
    """The message, or the place where it was, is gone."""


@dataclass
class Answering:
    """An interaction that can still be answered. `awaits_first`: Discord shows "thinking…" until something is said.

    `refusal`: what was said against the request. `brings_picture`: so the question for a picture need not be asked.
    """

    interaction: discord.Interaction[Any]
    until: float
    awaits_first: bool
    brings_picture: bool = False
    refusal: Reply | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_alive(self) -> bool:
        return time.monotonic() < self.until

    @property
    def can_be_deleted(self) -> bool:
        return time.monotonic() < self.until + TAKE_OVER_S


@dataclass
class _Shown:
    """An answer (or its message) that is known by its interaction: is it the interaction's own message?"""

    answering: Answering
    is_original: bool


class DiscordChat:
    """Implements bot.chat.Chat."""

    def __init__(self, client: discord.Client, app: App, secret: bytes) -> None:
        self._client, self._app, self._secret = client, app, secret
        self._latest: OrderedDict[str, Answering] = OrderedDict()  # by person
        self._answers: OrderedDict[str, _Shown] = OrderedDict()  # by message
        self._pictures: OrderedDict[str, tuple[str, ...]] = (
            OrderedDict()
        )  # by message: what it shows, to edit words only
        self._closed: OrderedDict[str, str] = OrderedDict()  # people whose direct messages are closed, and why

    def opened(
        self, interaction: discord.Interaction[Any], *, awaits_first: bool, brings_picture: bool = False
    ) -> Answering:
        """The frontend heard from a person: what is said to them now is an answer to this."""
        answering = Answering(interaction, time.monotonic() + TOKEN_LIFE_S, awaits_first, brings_picture)
        person = str(interaction.user.id)
        _keep(self._latest, person, answering)
        self._closed.pop(person, None)
        if interaction.message is not None and interaction.message.flags.ephemeral:
            _keep(self._answers, f"e{interaction.message.id}", _Shown(answering, is_original=True))
        return answering

    async def send(self, to: Address, reply: Reply, language: Language) -> list[MessageRef]:
        card = self._renderer(to, language).card(reply)
        answering = self._latest.get(to.person)
        if answering is not None and answering.is_alive:
            if answering.brings_picture and isinstance(reply, r.AskTemplatePicture):
                return []
            try:
                ref = await self._answer(to, answering, card)
            except ChatError as error:
                if not error.is_permanent:
                    raise
                if self._latest.get(to.person) is answering:
                    del self._latest[to.person]  # the token died early; the direct message is left
            else:
                answering.refusal = reply if isinstance(reply, REFUSALS) else answering.refusal
                return [ref]
        return [await self._direct(to, card)]

    async def update(self, ref: MessageRef, reply: Reply, language: Language) -> MessageRef:
        card = self._renderer(ref.address, language).card(reply)
        try:
            if not _is_worn_out(ref, reply) and await self._edit(ref, card):
                return MessageRef(ref.address, ref.message_id, bool(card.pictures))
        except ChatError as error:
            if not error.is_permanent and not (error.retry_after_s and _age_s(ref) > EDITS_END_S):
                raise
        sent = (await self.send(ref.address, reply, language) or [ref])[-1]
        if sent != ref:
            with suppress(ChatError):  # the new message counts; the old one stays above it at worst
                await self.delete(ref)
        return sent

    async def delete(self, ref: MessageRef) -> bool:
        self._pictures.pop(ref.message_id, None)
        shown = self._answers.pop(ref.message_id, None)
        try:
            if not ref.message_id.startswith("e"):
                await _asked((await self._message(ref)).delete)
            elif shown is None or not shown.answering.can_be_deleted:
                return False
            elif shown.is_original:
                await _asked(shown.answering.interaction.delete_original_response)
            else:
                followup = shown.answering.interaction.followup
                await _asked(partial(followup.delete_message, _number(ref)))
        except NotThere:
            return True
        except ChatError as error:
            log.info("a message could not be deleted: %s", error)
            if not error.is_permanent:
                raise
            return False
        return True

    def _renderer(self, to: Address, language: Language) -> Renderer:
        return Renderer(language, partial(pack, person=to.person, secret=self._secret))

    # --- saying

    async def _answer(self, to: Address, answering: Answering, card: Card) -> MessageRef:
        view, files = await self._layout(card)
        interaction = answering.interaction
        async with answering.lock:  # only one can be the first
            if answering.awaits_first:
                sent: discord.Message = await _asked(
                    partial(interaction.edit_original_response, view=view, attachments=files)
                )
                answering.awaits_first = False
            else:
                say = partial(interaction.followup.send, view=view, files=files, ephemeral=is_hidden(interaction))
                sent = await _asked(partial(say, wait=True))
        if not sent.flags.ephemeral:
            return self._ref(to, str(sent.id), card)
        ref = self._ref(to, f"e{sent.id}", card)
        _keep(self._answers, ref.message_id, _Shown(answering, is_original=False))
        return ref

    async def _direct(self, to: Address, card: Card) -> MessageRef:
        if to.person in self._closed:
            raise ChatError(self._closed[to.person], is_permanent=True)
        view, files = await self._layout(card)
        try:
            channel = await self._channel(to)
            sent = await _asked(partial(channel.send, view=view, files=files))
        except ChatError as error:
            if error.is_permanent:  # refused requests in numbers get a bot banned, so there is no second one
                _keep(self._closed, to.person, str(error))
            raise
        return self._ref(to, str(sent.id), card)

    async def _edit(self, ref: MessageRef, card: Card) -> bool:
        """False when this message can no longer be edited."""
        edit = await self._editor(ref)
        if edit is None:
            return False
        if card.pictures and self._pictures.get(ref.message_id) == card.pictures:
            # The pictures stay: only words and buttons travel.
            try:
                await _asked(partial(edit, view=_view(card, card.text, _names(card.pictures), [])))
                return True
            except NotThere:
                raise
            except ChatError as error:
                if not error.is_permanent:
                    raise
                del self._pictures[ref.message_id]
        view, files = await self._layout(card)
        await _asked(partial(edit, view=view, attachments=files))
        self._ref(ref.address, ref.message_id, card)
        return True

    async def _editor(self, ref: MessageRef) -> Callable[..., Awaitable[Any]] | None:
        """What edits the message."""
        if not ref.message_id.startswith("e"):
            return (await self._message(ref)).edit
        shown = self._answers.get(ref.message_id)
        if shown is None or not shown.answering.is_alive:
            return None
        interaction = shown.answering.interaction
        if shown.is_original:
            return interaction.edit_original_response
        return partial(interaction.followup.edit_message, _number(ref))

    async def _channel(self, to: Address) -> discord.DMChannel:
        channel: discord.DMChannel = await _asked(partial(self._client.create_dm, discord.Object(int(to.person))))
        return channel

    async def _message(self, ref: MessageRef) -> discord.PartialMessage:
        return (await self._channel(ref.address)).get_partial_message(_number(ref))

    def _ref(self, to: Address, message_id: str, card: Card) -> MessageRef:
        _keep(self._pictures, message_id, card.pictures)
        return MessageRef(to, message_id, bool(card.pictures))

    # --- what a message is made of

    async def _layout(self, card: Card) -> tuple[ui.LayoutView, list[discord.File]]:
        """The card as components and the files that it names. Of a picture that Discord would not take, a smaller copy
        is shown; a file that it would not take is left out and told."""
        room = min(MAX_FILE_BYTES, MAX_REQUEST_BYTES // max(len(card.pictures), 1))
        pictures: list[discord.File] = []
        for key, name in zip(card.pictures, _names(card.pictures), strict=True):
            if data := await self._blob(key):
                pictures.append(discord.File(io.BytesIO(await fitting(data, room)), name))
        originals: list[discord.File] = []
        text = card.text
        for key in card.files:
            data = await self._blob(key)
            if len(data) > MAX_FILE_BYTES:
                text = f"{card.text}\n{card.if_too_big}"
            elif data:
                originals.append(discord.File(io.BytesIO(data), _file_name(key)))
        names = [picture.filename for picture in pictures]
        return _view(card, text, names, originals), [*pictures, *originals]

    async def _blob(self, key: str) -> bytes:
        """Empty when it was deleted meanwhile: the words are said without it."""
        try:
            return await self._app.blobs.get(key)
        except BlobNotFound:
            log.info("a picture to be shown was deleted meanwhile")
            return b""


def is_hidden(interaction: discord.Interaction[Any]) -> bool:
    """Whether answers must be seen by the person alone: everywhere but in their direct messages with the bot."""
    return not interaction.context.dm_channel


def _view(card: Card, text: str, pictures: list[str], originals: list[discord.File]) -> ui.LayoutView:
    container: ui.Container[ui.LayoutView] = ui.Container(ui.TextDisplay(text[:MAX_TEXT] or "…"))
    if pictures:
        items = [discord.MediaGalleryItem(f"attachment://{name}", spoiler=card.is_spoiler) for name in pictures]
        container.add_item(ui.MediaGallery(*items))
    for original in originals:
        container.add_item(ui.File(original))
    for row in card.rows:
        container.add_item(ui.ActionRow(*[_button(button) for button in row]))
    view = ui.LayoutView(timeout=None)
    view.add_item(container)
    view.stop()  # the library need not remember it: presses are known by their custom ids
    return view


def _file_name(key: str) -> str:
    """An archive keeps its name; a picture's is nobody's business."""
    path = PurePath(key)
    return path.name if path.suffix == ".zip" else f"portrait{path.suffix}"


def _names(keys: tuple[str, ...]) -> list[str]:
    return [f"portrait-{number}{PurePath(key).suffix}" for number, key in enumerate(keys, 1)]


def _button(button: CardButton) -> ui.Button[ui.LayoutView]:
    style = discord.ButtonStyle.secondary
    if button.is_danger:
        style = discord.ButtonStyle.danger
    elif button.is_primary:
        style = discord.ButtonStyle.primary
    return ui.Button(label=button.label, custom_id=button.custom_id, style=style)


def _number(ref: MessageRef) -> int:
    return int(ref.message_id.removeprefix("e"))


def _is_worn_out(ref: MessageRef, reply: Reply) -> bool:
    """Progress goes on in a fresh message before Discord rations the edits of the old one."""
    return isinstance(reply, r.Working) and not reply.job.status.is_final and _age_s(ref) > EDITS_END_S


def _age_s(ref: MessageRef) -> float:
    return time.time() - discord.utils.snowflake_time(_number(ref)).timestamp()


def _keep(memory: OrderedDict[str, T], key: str, value: T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)


async def _asked(call: Callable[[], Awaitable[T]]) -> T:
    """One request to Discord; the library keeps to its rate limits. Raises ChatError."""
    try:
        async with asyncio.timeout(CALL_S):
            return await call()
    except discord.RateLimited as error:
        raise ChatError("too many requests", retry_after_s=error.retry_after) from error
    except discord.HTTPException as error:
        if error.code in GONE:
            raise NotThere(f"{error.status}/{error.code}", is_permanent=True) from error
        is_permanent = error.code == TOO_OLD_TO_EDIT or (400 <= error.status < 500 and error.status != 429)
        raise ChatError(f"{error.status}/{error.code}", is_permanent=is_permanent) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ChatError(type(error).__name__) from error
