"""Updates -> what a person said -> the bot's core. What Telegram cannot hand over becomes PictureNotTaken."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from pathlib import PurePath

import telegram
from telegram import CallbackQuery, Update
from telegram.error import BadRequest, NetworkError, TelegramError
from telegram.ext import ContextTypes

from bot import texts
from bot.callback import ForgedButton, OldButton, unpack
from bot.chat import ChatError
from bot.core import App, Incoming
from bot.dialogue import Asked, PictureNotTaken, Pressed, Said, SentPicture, Typed
from bot.domain import Address, Language, MessageRef
from bot.replies import Apology, FavouriteSet, NotYours, OutOfDate, Reply
from bot.telegram_chat.chat import PLATFORM, TelegramChat

log = logging.getLogger(__name__)

MAX_DOWNLOAD_BYTES = 20_000_000  # https://core.telegram.org/bots/api#getfile
DOWNLOAD_TRIES = 3
MAX_ALERT = 200
# Apps send pictures whose kind they do not know as plain bytes.
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".gif"}

Context = ContextTypes.DEFAULT_TYPE


@dataclass(frozen=True)
class Handlers:
    app: App
    chat: TelegramChat
    secret: bytes

    async def command(self, update: Update, context: Context) -> None:
        message = update.effective_message
        if message is None or not message.text:
            return
        name, _, argument = message.text.partition(" ")
        command, _, addressee = name[1:].partition("@")
        if addressee and addressee.lower() != context.bot.username.lower():
            return  # meant for another bot of the group
        await self._tell(update, Asked(command.lower(), argument.strip()))

    async def text(self, update: Update, context: Context) -> None:
        if update.effective_message and update.effective_message.text:
            await self._tell(update, Typed(update.effective_message.text))

    async def photo(self, update: Update, context: Context) -> None:
        """A photo as Telegram recompressed it; the largest of its sizes."""
        message = update.effective_message
        if message and message.photo:
            best = max(message.photo, key=lambda size: size.width * size.height)
            await self._tell(update, await self._picture(best, message.media_group_id, is_original_file=False))

    async def document(self, update: Update, context: Context) -> None:
        """A file. Whether it is a picture is for its bytes to say; what does not even claim to be one stays unread."""
        message = update.effective_message
        if message and message.document:
            if _may_be_picture(message.document):
                said = await self._picture(message.document, message.media_group_id, is_original_file=True)
            else:
                said = PictureNotTaken("not_a_picture")
            await self._tell(update, said)

    async def moving(self, update: Update, context: Context) -> None:
        """Animations and videos."""
        await self._tell(update, PictureNotTaken("animated"))

    async def something_else(self, update: Update, context: Context) -> None:
        await self._tell(update, PictureNotTaken("not_a_picture"))

    async def button(self, update: Update, context: Context) -> None:
        query = update.callback_query
        if query is None or query.message is None:
            return None
        language = _language(query.from_user)
        try:
            choice = unpack(query.data or "", str(query.from_user.id), self.secret)
        except OldButton:
            return await _answer(query, OutOfDate(), language)
        except ForgedButton:
            log.warning("a forged button was pressed")
            return await _answer(query, NotYours(), language)
        reply = await self.app.handle(self._incoming(update, Pressed(choice), query.message))
        return await _answer(query, reply, language)

    async def error(self, update: object, context: Context) -> None:
        """The last resort: a bug of ours. It is logged under a short reference, and the person hears of it."""
        reference = secrets.token_hex(3)
        log.error("handling an update failed, reference %s", reference, exc_info=context.error)
        if isinstance(update, Update) and update.effective_user and update.effective_chat:
            try:
                await self.chat.send(_address(update), Apology(reference), _language(update.effective_user))
            except ChatError:
                log.info("the apology %s could not be sent", reference)

    async def _tell(self, update: Update, said: Said) -> None:
        if update.effective_user is None or update.effective_user.is_bot:
            return  # channels and other bots are nobody's selfies
        if update.effective_message:
            self.chat.heard(_address(update).chat, update.effective_message.message_id)
        await self.app.handle(self._incoming(update, said))

    def _incoming(
        self, update: Update, said: Said, pressed: telegram.MaybeInaccessibleMessage | None = None
    ) -> Incoming:
        address = _address(update)
        ref = None
        if pressed is not None:
            is_picture = isinstance(pressed, telegram.Message) and bool(pressed.photo or pressed.document)
            ref = MessageRef(address, str(pressed.message_id), is_picture)
        return Incoming(
            address=address,
            said=said,
            language=_language(update.effective_user),
            event_id=f"{PLATFORM}:{update.update_id}",
            inbox_id=update.update_id,
            pressed=ref,
            is_private=update.effective_chat is None or update.effective_chat.type == telegram.Chat.PRIVATE,
        )

    async def _picture(
        self, file: telegram.PhotoSize | telegram.Document, group: str | None, *, is_original_file: bool
    ) -> Said:
        if file.file_size and file.file_size > MAX_DOWNLOAD_BYTES:
            return PictureNotTaken("too_big")
        try:
            return SentPicture(await _download(file), is_original_file, group)
        except BadRequest as error:
            return PictureNotTaken("too_big" if "too big" in error.message.lower() else "expired")
        except TelegramError as error:
            log.warning("a picture could not be fetched: %s", error.message)
            return PictureNotTaken("expired")


async def _download(file: telegram.PhotoSize | telegram.Document) -> bytes:
    for attempt in range(1, DOWNLOAD_TRIES + 1):
        try:
            return bytes(await (await file.get_file()).download_as_bytearray())
        except BadRequest:
            raise
        except NetworkError:
            if attempt == DOWNLOAD_TRIES:
                raise
            await asyncio.sleep(attempt)
    raise AssertionError("unreachable")


async def _answer(query: CallbackQuery, reply: Reply | None, language: Language) -> None:
    """Stops the button's spinner, with an alert if there is something to say."""
    try:
        if reply is None:
            await query.answer()
        else:
            is_news = isinstance(reply, FavouriteSet)  # a line that goes by itself; a refusal has to be read
            await query.answer(texts.alert(reply, language)[:MAX_ALERT], show_alert=not is_news)
    except TelegramError as error:
        log.info("a press could not be answered: %s", error.message)  # too old after a restart


def _may_be_picture(document: telegram.Document) -> bool:
    kind = (document.mime_type or "").lower()
    return kind.startswith("image/") or PurePath(document.file_name or "").suffix.lower() in PICTURE_SUFFIXES


def _address(update: Update) -> Address:
    assert update.effective_user is not None
    chat = update.effective_chat.id if update.effective_chat else update.effective_user.id
    return Address("telegram", str(chat), str(update.effective_user.id))


def _language(user: telegram.User | None) -> Language:
    return "zh" if user and (user.language_code or "").lower().startswith("zh") else "en"
