"""The Telegram frontend: all handlers in one place, and its life from the first request to a fast, clean end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Protocol

from telegram import Bot, BotCommand, Update
from telegram.error import Conflict, InvalidToken, NetworkError, RetryAfter, TelegramError
from telegram.ext import Application, ApplicationBuilder, CallbackQueryHandler, MessageHandler, filters
from telegram.request import HTTPXRequest

from bot import texts
from bot.callback import secret_of
from bot.core import App
from bot.settings import Settings
from bot.telegram_chat.chat import PLATFORM, TelegramChat
from bot.telegram_chat.handlers import Handlers
from bot.telegram_chat.inbox import InboxQueue, PerChat, StoringBot

log = logging.getLogger(__name__)

POLL_S = 25
_CONNECTIONS = 64
ALLOWED_UPDATES = [Update.MESSAGE, Update.CALLBACK_QUERY]
MAX_PAUSE_S = 30.0  # between tries to reach Telegram at start
DRAIN_S = 1.5  # for updates under way when we stop; the rest is replayed at the next start


class TelegramApp(App, Protocol):
    settings: Settings


class TelegramTokenRefused(Exception):
    """Telegram does not know the token."""


async def run_telegram(app: TelegramApp, stop: asyncio.Event) -> None:
    """Talks to Telegram until `stop` is set. Raises TelegramTokenRefused."""
    token = app.settings.telegram_token
    assert token is not None, "the frontend runs only where a token is set"
    secret = secret_of(token.get_secret_value())
    queue = InboxQueue(app.inbox)
    application = build(app, token.get_secret_value(), queue)
    if not await _first_contact(application, stop):
        return
    try:
        chat = TelegramChat(application.bot, app, secret)
        add_handlers(application, Handlers(app, chat, secret))
        app.register(PLATFORM, chat)
        await _set_commands(application.bot)
        replayed = await queue.replay(application.bot)
        log.info("Telegram is on; %d updates of an earlier run are handled first", replayed)
        await application.start()
        assert application.updater is not None
        await application.updater.start_polling(
            poll_interval=0,
            timeout=POLL_S,
            bootstrap_retries=-1,
            allowed_updates=ALLOWED_UPDATES,
            error_callback=_poll_failed,
        )
        await stop.wait()
    finally:
        await _end(application)


def build(app: TelegramApp, token: str, queue: InboxQueue) -> Application[Any, Any, Any, Any, Any, Any]:
    base = app.settings.telegram_api_url.rstrip("/")
    bot = StoringBot(
        queue,
        token,
        f"{base}/bot",
        f"{base}/file/bot",
        request=HTTPXRequest(connection_pool_size=_CONNECTIONS),
        get_updates_request=HTTPXRequest(),
    )
    return ApplicationBuilder().bot(bot).update_queue(queue).concurrent_updates(PerChat(app.inbox)).build()


def add_handlers(application: Application[Any, Any, Any, Any, Any, Any], handlers: Handlers) -> None:
    """Order matters: the first that fits takes the update."""
    private = filters.ChatType.PRIVATE
    application.add_handler(CallbackQueryHandler(handlers.button))
    # In groups commands alone are heard, and answered with the way to the private chat.
    application.add_handler(MessageHandler(filters.COMMAND, handlers.command))
    application.add_handler(MessageHandler(private & filters.PHOTO, handlers.photo))
    # A GIF arrives as an animation that is a document too, so animations go first.
    moving = filters.ANIMATION | filters.VIDEO | filters.VIDEO_NOTE
    application.add_handler(MessageHandler(private & moving, handlers.moving))
    application.add_handler(MessageHandler(private & filters.Document.ALL, handlers.document))
    application.add_handler(MessageHandler(private & filters.TEXT, handlers.text))
    nothing = filters.StatusUpdate.ALL
    application.add_handler(MessageHandler(private & ~nothing, handlers.something_else))
    application.add_error_handler(handlers.error)


async def _first_contact(application: Application[Any, Any, Any, Any, Any, Any], stop: asyncio.Event) -> bool:
    """Waits until Telegram can be reached; False when we were stopped before that."""
    pause_s = 0.5
    while not stop.is_set():
        try:
            await application.initialize()
            return True
        except InvalidToken as error:
            raise TelegramTokenRefused("Telegram refuses PORTRAIT_TELEGRAM_TOKEN: ask @BotFather for it") from error
        except NetworkError as error:
            log.warning("Telegram cannot be reached, trying again in %.0f s: %s", pause_s, error.message)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s)
        pause_s = min(pause_s * 2, MAX_PAUSE_S)
    return False


async def _set_commands(bot: Bot) -> None:
    """The menu, in English for everybody and in Chinese for who speaks it. Without it the bot still works."""
    try:
        english = [BotCommand(name, words) for name, words in texts.commands("en").items()]
        chinese = [BotCommand(name, words) for name, words in texts.commands("zh").items()]
        await bot.set_my_commands(english)
        await bot.set_my_commands(chinese, language_code="zh")
    except TelegramError as error:
        log.warning("the menu of commands could not be set: %s", error.message)


def _poll_failed(error: TelegramError) -> None:
    if isinstance(error, Conflict):
        log.error("another process polls with the same token; only one bot may run")
    elif not isinstance(error, RetryAfter):
        log.warning("polling Telegram failed, it goes on: %s", error.message)


async def _end(application: Application[Any, Any, Any, Any, Any, Any]) -> None:
    """Stops polling, gives what is under way a moment, and leaves the rest to the inbox."""
    if application.updater is not None and application.updater.running:
        await application.updater.stop()
    if application.running:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(application.stop(), DRAIN_S)
    # A stop that was cut short leaves the application "running"; its connections are closed all the same.
    await application.bot.shutdown()
