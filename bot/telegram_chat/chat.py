"""The port to Telegram: sends, edits and deletes messages, at Telegram's pace, with one kind of failure (ChatError)."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import telegram
from telegram import InputMediaPhoto
from telegram.constants import ChatAction, ParseMode
from telegram.error import BadRequest, Forbidden, NetworkError, RetryAfter, TelegramError

from bot.callback import pack
from bot.chat import ChatError
from bot.core import App
from bot.domain import Address, Language, MessageRef
from bot.pictures import fitting
from bot.replies import CollectingPhotos, Reply
from bot.telegram_chat.pace import Pace
from bot.telegram_chat.render import Album, File, Message, Picture, Renderer, Text
from gpu_worker.contract.blobs import BlobNotFound

T = TypeVar("T")
log = logging.getLogger(__name__)

PLATFORM = "telegram"
MAX_WAIT_S = 10.0  # a shorter 429 is waited for here; a longer one is the caller's to plan
MAX_PHOTO_BYTES = 10_000_000  # https://core.telegram.org/bots/api#sendphoto
MAX_SHOWN = 2000  # messages and chats of which something is remembered; forgetting costs a nicety, no more


class TelegramChat:
    """Implements bot.chat.Chat."""

    def __init__(self, bot: telegram.Bot, app: App, secret: bytes) -> None:
        self._bot, self._app, self._secret = bot, app, secret
        self._pace = Pace()
        self._newest: OrderedDict[str, int] = OrderedDict()  # chat -> the person's last message
        self._shown: OrderedDict[tuple[str, str], str] = OrderedDict()  # (chat, message) -> key of its picture

    async def send(self, to: Address, reply: Reply, language: Language) -> list[MessageRef]:
        refs: list[MessageRef] = []
        for message in self._renderer(to, language).messages(reply):
            refs += await self._send(to, message)
        return refs

    def heard(self, chat: str, message_id: int) -> None:
        """A person's message stands in the chat now, below everything of ours so far."""
        self._newest[chat] = message_id
        self._newest.move_to_end(chat)
        while len(self._newest) > MAX_SHOWN:
            self._newest.popitem(last=False)

    async def update(self, ref: MessageRef, reply: Reply, language: Language) -> MessageRef:
        messages = self._renderer(ref.address, language).messages(reply)
        # An album fills a phone's screen: an answer that is edited above it would not be seen.
        is_out_of_sight = self._newest.get(ref.address.chat, 0) > int(ref.message_id)
        if len(messages) == 1 and not (is_out_of_sight and isinstance(reply, CollectingPhotos)):
            edited = await self._edit(ref, messages[0])
            if edited is not None:
                return edited
        refs = await self.send(ref.address, reply, language)
        with suppress(ChatError):  # the new message counts; the old one stays above it at worst
            await self.delete(ref)
        return refs[-1]

    async def delete(self, ref: MessageRef) -> bool:
        chat, message_id = int(ref.address.chat), int(ref.message_id)
        try:
            return await self._call(ref.address, 0, partial(self._bot.delete_message, chat, message_id))
        except BadRequest as error:
            return "not found" in error.message.lower()  # gone already; else it is older than 48 hours

    def _renderer(self, to: Address, language: Language) -> Renderer:
        return Renderer(language, partial(pack, person=to.person, secret=self._secret), self._bot.username)

    # -- sending

    async def _send(self, to: Address, message: Message) -> list[MessageRef]:
        chat = int(to.chat)
        match message:
            case Text():
                send = partial(
                    self._bot.send_message,
                    chat,
                    message.html,
                    parse_mode=ParseMode.HTML,
                    reply_markup=message.keyboard,
                    link_preview_options=telegram.LinkPreviewOptions(is_disabled=True),
                )
                return [self._ref(to, await self._sent(to, 1, send))]
            case Picture():
                return [await self._send_picture(to, message)]
            case Album():
                media = [
                    InputMediaPhoto(await self._shown_blob(p.key), caption=p.html, parse_mode=ParseMode.HTML)
                    for p in message.pictures
                ]
                await self._act(to, ChatAction.UPLOAD_PHOTO)
                sent = await self._sent(to, len(media), partial(self._bot.send_media_group, chat, media))
                return [self._ref(to, one) for one in sent]
            case File():
                data = await self._blob(message.key)
                await self._act(to, ChatAction.UPLOAD_DOCUMENT)
                send = partial(
                    self._bot.send_document,
                    chat,
                    data,
                    caption=message.html,
                    parse_mode=ParseMode.HTML,
                    filename=message.name,
                    reply_markup=message.keyboard,
                    disable_content_type_detection=True,
                )
                return [self._ref(to, await self._sent(to, 1, send))]

    async def _send_picture(self, to: Address, picture: Picture) -> MessageRef:
        photo = await self._photo(picture)
        if isinstance(photo, bytes):
            await self._act(to, ChatAction.UPLOAD_PHOTO)
        send = partial(
            self._bot.send_photo,
            int(to.chat),
            photo,
            caption=picture.html,
            parse_mode=ParseMode.HTML,
            reply_markup=picture.keyboard,
        )
        sent = await self._sent(to, 1, send)
        await self._keep(picture, sent)
        return self._ref(to, sent, picture.key)

    async def _sent(self, to: Address, cost: int, call: Callable[[], Awaitable[T]]) -> T:
        """A new message; what Telegram does not take will not be taken the next time either."""
        try:
            return await self._call(to, cost, call)
        except BadRequest as error:
            log.error("Telegram refused a message: %s", error.message)
            raise ChatError(error.message, is_permanent=True) from error

    async def _act(self, to: Address, action: ChatAction) -> None:
        await self._sent(to, 0, partial(self._bot.send_chat_action, int(to.chat), action))

    # -- editing

    async def _edit(self, ref: MessageRef, message: Message) -> MessageRef | None:
        """The message after the edit; None when Telegram cannot make this one of that one."""
        try:
            match message:
                case Text() if ref.is_picture:
                    await self._edit_caption(ref, message.html, message.keyboard)
                case Text():
                    await self._edit_text(ref, message)
                case Picture() if ref.is_picture and self._shown.get(_name(ref)) == message.key:
                    await self._edit_caption(ref, message.html, message.keyboard)
                case Picture():
                    return await self._edit_picture(ref, message)
                case _:
                    return None
        except BadRequest as error:
            # Deleted by the person, too old, or a kind of message that cannot become the other kind.
            log.info("a message could not be edited: %s", error.message)
            return None
        return ref

    async def _edit_text(self, ref: MessageRef, text: Text) -> None:
        await self._changed(
            ref,
            partial(
                self._bot.edit_message_text,
                text.html,
                int(ref.address.chat),
                int(ref.message_id),
                parse_mode=ParseMode.HTML,
                reply_markup=text.keyboard,
                link_preview_options=telegram.LinkPreviewOptions(is_disabled=True),
            ),
        )

    async def _edit_caption(self, ref: MessageRef, html: str, keyboard: telegram.InlineKeyboardMarkup | None) -> None:
        await self._changed(
            ref,
            partial(
                self._bot.edit_message_caption,
                int(ref.address.chat),
                int(ref.message_id),
                caption=html,
                parse_mode=ParseMode.HTML,
                reply_markup=keyboard,
            ),
        )

    async def _edit_picture(self, ref: MessageRef, picture: Picture) -> MessageRef:
        media = InputMediaPhoto(await self._photo(picture), caption=picture.html, parse_mode=ParseMode.HTML)
        call = partial(
            self._bot.edit_message_media,
            media,
            int(ref.address.chat),
            int(ref.message_id),
            reply_markup=picture.keyboard,
        )
        edited = await self._changed(ref, call)
        if isinstance(edited, telegram.Message):
            await self._keep(picture, edited)
        self._remember((ref.address.chat, ref.message_id), picture.key)
        return MessageRef(ref.address, ref.message_id, is_picture=True)

    async def _changed(self, ref: MessageRef, call: Callable[[], Awaitable[T]]) -> T | None:
        """The edited message; None when it looked like that already."""
        try:
            return await self._call(ref.address, 1, call)
        except BadRequest as error:
            if "message is not modified" not in error.message.lower():
                raise
            return None

    # -- pictures

    async def _photo(self, picture: Picture) -> bytes | str:
        """The bytes, or Telegram's own id of a picture that it has."""
        known = await self._app.kept_file(PLATFORM, picture.key) if picture.is_shared else None
        return known or await self._shown_blob(picture.key)

    async def _shown_blob(self, key: str) -> bytes:
        return await fitting(await self._blob(key), MAX_PHOTO_BYTES)

    async def _blob(self, key: str) -> bytes:
        try:
            return await self._app.blobs.get(key)
        except BlobNotFound as error:
            raise ChatError("the picture was deleted", is_permanent=True) from error

    async def _keep(self, picture: Picture, sent: telegram.Message) -> None:
        if picture.is_shared and sent.photo:
            await self._app.keep_file(PLATFORM, picture.key, sent.photo[-1].file_id)

    def _ref(self, to: Address, sent: telegram.Message, key: str = "") -> MessageRef:
        ref = MessageRef(to, str(sent.message_id), is_picture=bool(sent.photo or sent.document))
        if key:
            self._remember(_name(ref), key)
        return ref

    def _remember(self, name: tuple[str, str], key: str) -> None:
        self._shown[name] = key
        self._shown.move_to_end(name)
        while len(self._shown) > MAX_SHOWN:
            self._shown.popitem(last=False)

    # -- one call

    async def _call(self, to: Address, cost: int, call: Callable[[], Awaitable[T]]) -> T:
        """One request in the chat's turn. Raises ChatError, and BadRequest for the caller to judge."""
        async with self._pace.turn(to.chat, cost):
            try:
                try:
                    return await call()
                except RetryAfter as error:
                    wait_s = _seconds(error)
                    if wait_s > MAX_WAIT_S:
                        raise
                    await asyncio.sleep(wait_s)
                    return await call()
            except RetryAfter as error:
                raise ChatError("too many messages", retry_after_s=_seconds(error)) from error
            except Forbidden as error:
                raise ChatError(error.message, is_permanent=True) from error
            except BadRequest as error:
                if "chat not found" in error.message.lower():
                    raise ChatError(error.message, is_permanent=True) from error
                raise
            except NetworkError as error:
                raise ChatError(error.message) from error
            except TelegramError as error:
                raise ChatError(error.message, is_permanent=True) from error


def _name(ref: MessageRef) -> tuple[str, str]:
    return ref.address.chat, ref.message_id


def _seconds(error: RetryAfter) -> float:
    wait = error.retry_after
    return wait if isinstance(wait, int | float) else wait.total_seconds()
