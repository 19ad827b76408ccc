"""The composition root: everything is wired here, and runs side by side until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from bot import replies as r
from bot.acts import Tell
from bot.chat import Chat, ChatError
from bot.core import Inbox, Incoming
from bot.db.database import Database, is_away, open_database
from bot.db.migrate import upgrade
from bot.delivery import Delivery, Painter
from bot.dialogue import PictureNotTaken, SentPicture, storable
from bot.erasure import erase, forget_again
from bot.export import Wish, export
from bot.guilds import GuildRules, Place
from bot.health import health_page
from bot.intake import Intake
from bot.job_events import EventReader
from bot.keys import NoMasterKey, UserKeys, master_keys
from bot.outbox import relay_forever
from bot.packing import pack_telling
from bot.parts import Clock, Parts, new_reference, utc_now
from bot.queue import open_queue
from bot.reconciler import Reconciler
from bot.replies import Reply
from bot.retention import Retention
from bot.settings import Settings
from bot.templates import load_templates
from bot.tombstones import Tombstones
from bot.use_cases import Handled, clean_up, converse, hear
from gpu_worker.contract.blobs import open_blobs
from gpu_worker.contract.sealed_blobs import SealedBlobs

logger = logging.getLogger(__name__)

_PAINT_EVERY_S = 0.5
_LONGEST_ALBUM_S = 5.0
_PATIENCE_S = 60.0  # an outage of the database that lasts longer is apologised for

_FOREIGN_KEYS = (
    "The pictures and models of {count} users are sealed under a master key that is not among those given: set "
    "PORTRAIT_MASTER_KEY (or the key file) to the key that was in use, or to the new one followed by that one."
)

Frontend = Callable[["Bot", asyncio.Event], Awaitable[None]]


class StartFailure(Exception):
    """The bot cannot run; the message is a sentence for its operator."""


class SqlInbox:
    """`core.Inbox` in the database. An outage of the database is waited out: what was said is not to be said again."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db, self._clock = db, clock
        self._taken: set[tuple[str, int]] = set()

    async def store(self, platform: str, raws: Mapping[int, str]) -> set[int]:
        async def write() -> set[int]:
            async with self._db.transaction() as store:
                return await store.mail.store(platform, raws, self._clock())

        return await self._db.outlasting(write)

    def taken(self, platform: str, update_id: int) -> None:
        """It has left the inbox in the transaction that handled it: nothing is left for `done` to do."""
        self._taken.add((platform, update_id))

    async def done(self, platform: str, update_id: int) -> None:
        if (platform, update_id) in self._taken:
            self._taken.remove((platform, update_id))
            return

        async def write() -> None:
            async with self._db.transaction() as store:
                await store.mail.done(platform, update_id)

        await self._db.outlasting(write)

    async def pending(self, platform: str) -> list[str]:
        async def read() -> list[str]:
            async with self._db.reading() as store:
                return await store.mail.pending(platform)

        return await self._db.outlasting(read)


class Bot:
    """`core.App`: what the frontends talk to, and what runs beside them."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.settings, self.blobs = parts, parts.settings, parts.blobs
        self._inbox = SqlInbox(parts.db, parts.clock)
        self.inbox: Inbox = self._inbox
        self.delivery = Delivery(parts)
        self.painter = Painter(parts, self.delivery)
        self.events = EventReader(parts, self.delivery, self.painter)
        self.reconciler = Reconciler(parts, self.delivery, self.painter)
        self.retention = Retention(parts)
        self._albums: dict[tuple[str, str], tuple[float, float]] = {}  # person -> first and last picture

    # --- core.App ---

    def register(self, platform: str, chat: Chat) -> None:
        self.parts.chats[platform] = chat
        self.reconciler.wanted.set()  # what waited for this chat goes out now

    async def handle(self, incoming: Incoming) -> Reply | None:
        incoming = replace(incoming, said=storable(incoming.said))
        try:
            handled = await self.parts.db.outlasting(partial(self._take_in, incoming), _PATIENCE_S)
            self.parts.metrics.update(incoming.address.platform, "handled" if handled else "repeated")
            if handled is None:
                return None
            if incoming.inbox_id is not None and handled.turn:
                self._inbox.taken(incoming.address.platform, incoming.inbox_id)
            if handled.has_jobs:
                self.parts.relay_wanted.set()
            await self._follow_up(incoming, handled)
        except Exception:  # the border of the chats
            self.parts.metrics.update(incoming.address.platform, "failed")
            reference = new_reference()
            logger.exception("an event could not be handled (%s)", reference)
            return await self._apologise(incoming, r.Apology(reference))
        finally:
            self._erased(incoming)
        return handled.alert

    async def settle_guild(self, place: Place, change: Callable[[GuildRules], GuildRules]) -> GuildRules | None:
        if not place.may_manage:
            return None
        async with self.parts.db.transaction() as store:
            rules = change(await store.operations.guild(place.guild_id))
            await store.operations.keep_guild(place.guild_id, rules)
        return rules

    async def kept_file(self, platform: str, key: str) -> str | None:
        async with self.parts.db.reading() as store:
            return await store.mail.kept_file(platform, key)

    async def keep_file(self, platform: str, key: str, file_id: str) -> None:
        async with self.parts.db.transaction(lasting=False) as store:
            await store.mail.keep_file(platform, key, file_id)

    # --- its life ---

    async def run(self, frontends: Mapping[str, Frontend], stop: asyncio.Event) -> None:
        """Until `stop` is set, or a frontend ends; work begun is finished."""
        try:
            async with asyncio.TaskGroup() as group:
                for work in (self.events.run, self.reconciler.run, self.retention.run, self._paint):
                    group.create_task(work(stop))
                group.create_task(relay_forever(self.parts, stop))
                for frontend in frontends.values():
                    group.create_task(self._front(frontend, stop))
                group.create_task(self._wake_all(stop))
        finally:
            await self.parts.tasks.settle()

    async def _front(self, frontend: Frontend, stop: asyncio.Event) -> None:
        try:
            await frontend(self, stop)
        finally:
            stop.set()

    async def _wake_all(self, stop: asyncio.Event) -> None:
        await stop.wait()
        for waiting in (self.parts.relay_wanted, self.reconciler.wanted, self.retention.wanted):
            waiting.set()

    async def _paint(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self.painter.paint()
            except Exception:  # the border of the loop
                logger.exception("progress could not be shown")
            await asyncio.sleep(_PAINT_EVERY_S)

    # --- handling ---

    async def _take_in(self, incoming: Incoming) -> Handled | None:
        """None when the event was handled before; also when it was this very call, whose answer got lost."""
        async with self.parts.locks.held("person", incoming.address.platform, incoming.address.person):
            heard = await hear(self.parts, incoming)
            return await converse(self.parts, incoming, heard) if heard else None

    async def _follow_up(self, incoming: Incoming, handled: Handled) -> None:
        """The decision is stored by now, so an outage from here on delays the answer and nothing else."""
        platform, person = incoming.address.platform, incoming.address.person
        try:
            await self._afterwards(handled)
            self._erased(incoming)
            if isinstance(incoming.said, SentPicture | PictureNotTaken):
                self._answer_when_quiet(platform, person)
            else:
                await self.delivery.answer(platform, person)
        except Exception as error:
            if not is_away(error):
                raise
            logger.warning("an answer is left to the reconciler: %s", type(error).__name__)

    async def _afterwards(self, handled: Handled) -> None:
        gone = handled.aftermath.forgotten
        if gone and handled.turn:
            receipt = await erase(self.parts, gone)
            said = replace(handled.turn, tellings=(pack_telling(Tell(r.Forgotten(receipt))),))
            async with self.parts.db.transaction() as store:
                await store.turns.amend(said)
        if wish := handled.aftermath.export:
            self.parts.tasks.begin("exporting", self._export(wish))
        self.parts.tasks.begin("cleaning up", clean_up(self.parts, handled))

    async def _export(self, wish: Wish) -> None:
        """One at a time: archives take memory."""
        async with self.parts.locks.held("export"):
            await export(self.parts, wish)
        await self.delivery.answer(wish.address.platform, wish.address.person)

    def _erased(self, incoming: Incoming) -> None:
        """The person may be spoken to again, if it was this event that forgot them."""
        person = (incoming.address.platform, incoming.address.person)
        if self.parts.erasing.get(person) == incoming.event_id:
            del self.parts.erasing[person]

    def _answer_when_quiet(self, platform: str, person: str) -> None:
        """Albums come photo by photo with no end mark: the answer waits until no more come."""
        now, key = asyncio.get_running_loop().time(), (platform, person)
        if key in self._albums:
            self._albums[key] = (self._albums[key][0], now)
            return
        self._albums[key] = (now, now)
        self.parts.tasks.begin("answering photos", self._answer_album(key))

    async def _answer_album(self, key: tuple[str, str]) -> None:
        quiet_s, loop = self.settings.quiet_s, asyncio.get_running_loop()
        while True:
            first, last = self._albums[key]
            left = min(last + quiet_s, first + _LONGEST_ALBUM_S) - loop.time()
            if left <= 0:
                break
            await asyncio.sleep(left)
        del self._albums[key]
        await self.delivery.answer(*key)

    async def _apologise(self, incoming: Incoming, apology: r.Apology) -> Reply:
        """Once: in the chat, or on the pressed button."""
        chat = self.parts.chats.get(incoming.address.platform)
        if chat is not None and incoming.pressed is None:
            try:
                await chat.send(incoming.address, apology, incoming.language)
            except ChatError as error:
                logger.info("the apology was not taken: %s", error)
        return apology


@asynccontextmanager
async def open_bot(settings: Settings, clock: Clock = utc_now) -> AsyncIterator[Bot]:
    """Opens everything that the bot needs, and closes it. Raises StartFailure with a sentence."""
    url = settings.database
    try:
        master = master_keys(settings)
    except NoMasterKey as error:
        raise StartFailure(str(error)) from error
    if settings.migrate_at_start:
        try:
            await asyncio.to_thread(upgrade, url)
        except (SQLAlchemyError, OSError) as error:
            raise StartFailure(f"The database cannot be opened or upgraded: {_first_line(error)}") from error
    try:
        queue = await open_queue(settings.redis_url.get_secret_value())
    except (RedisError, OSError, ValueError) as error:
        raise StartFailure(f"No Redis answers at PORTRAIT_REDIS_URL: {_first_line(error)}. Is it running?") from error
    db, templates = open_database(url), load_templates()
    keys = UserKeys(db, master)
    blobs = SealedBlobs(open_blobs(settings.blobs_url), keys.of)
    intake = Intake(
        processes=settings.intake_processes, max_bytes=settings.max_file_bytes, max_pixels=settings.max_pixels
    )
    try:
        async with intake:
            parts = Parts(settings, db, blobs, keys, queue, intake, templates, Tombstones(settings.data_dir), clock)
            await _make_ready(parts)
            try:
                yield Bot(parts)
            finally:
                await parts.tasks.settle()
    finally:
        await queue.close()
        await db.close()


async def _make_ready(parts: Parts) -> None:
    """What has to be in order before anybody is answered. Raises StartFailure."""
    try:
        if count := await parts.keys.unopenable():
            raise StartFailure(_FOREIGN_KEYS.format(count=count))
        await parts.templates.publish(parts.blobs)
        await forget_again(parts)
    except (SQLAlchemyError, OSError) as error:
        raise StartFailure(f"Database or blobs cannot be used yet: {_first_line(error)}") from error


def frontends_of(settings: Settings) -> dict[str, Frontend]:
    """The platforms that have a token. Raises StartFailure when there is none."""
    found: dict[str, Frontend] = {}
    if settings.telegram_token:
        found["telegram"] = _telegram
    else:
        logger.info("Telegram is off: PORTRAIT_TELEGRAM_TOKEN is not set")
    if settings.discord_token:
        found["discord"] = _discord
    else:
        logger.info("Discord is off: PORTRAIT_DISCORD_TOKEN is not set")
    if not found:
        raise StartFailure("There is no chat to talk in: set PORTRAIT_TELEGRAM_TOKEN or PORTRAIT_DISCORD_TOKEN.")
    return found


async def run(settings: Settings, stop: asyncio.Event, clock: Clock = utc_now) -> None:
    """The whole bot, until `stop` is set. Raises StartFailure."""
    frontends = frontends_of(settings)
    async with open_bot(settings, clock) as bot, health_page(bot.parts, frozenset(frontends)):
        try:
            await bot.run(frontends, stop)
        except* StartFailure as failures:
            raise failures.exceptions[0] from None


async def _telegram(bot: Bot, stop: asyncio.Event) -> None:
    from bot.telegram_chat import TelegramTokenRefused, run_telegram

    try:
        await run_telegram(bot, stop)
    except TelegramTokenRefused as error:
        raise StartFailure(f"{error}.") from error


async def _discord(bot: Bot, stop: asyncio.Event) -> None:
    from bot.discord_chat import DiscordTokenRefused, run_discord

    try:
        await run_discord(bot, stop)
    except DiscordTokenRefused as error:
        raise StartFailure(f"{error}.") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
