"""People as they are: impatient, forgetful, pressing twice, sending photos in between, and changing their minds."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from aiohttp import ClientError
from PIL import Image

from bot import replies as r
from bot import texts
from bot.domain import Language
from bot.sandbox.person import Person, buttons, choice_in, find_button, words
from bot.sandbox.world import Json

PATIENCE_S = 8.0
ENOUGH = 5
TROUBLES = (ClientError, OSError, RuntimeError, LookupError)  # the platform is away: it is played so on purpose


@cache
def selfie(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((160, 160)).save(out, "JPEG")
    return out.getvalue()


@dataclass
class Ledger:
    """What somebody did, for the reckoning. `photos`: how many went into which collection.

    `unsure` are collections that were also changed otherwise, or into which a photo may or may not have gone.
    """

    photos: Counter[str] = field(default_factory=Counter)
    unsure: set[str] = field(default_factory=set)
    strays: int = 0  # photos that may have gone into any collection, or into none
    acts: Counter[str] = field(default_factory=Counter)
    forgot_at: list[float] = field(default_factory=list)
    has_left: bool = False  # their last act was to have everything forgotten


class Visitor:
    """One person with a temper of their own; `live` until the time is over, or until they have left for good."""

    def __init__(self, url: str, number: int, rng: random.Random) -> None:
        self.user, self._rng = 1000 + number, rng
        self._language: Language = rng.choice(["en", "en", "zh"])
        self._person = Person(url, self.user, language=self._language)
        self._hurry = rng.uniform(0.2, 0.9)
        self._has_agreed = False
        self._over: set[str] = set()  # collections that were started or dropped: no photos go there any more
        self._has_lost_track = False  # of which collection is open
        self.ledger = Ledger()

    @property
    def language(self) -> Language:
        return self._language

    async def live(self, until: float) -> None:
        if not await self._arrive():
            return
        try:
            while time.monotonic() < until and not self.ledger.has_left:
                try:
                    await asyncio.wait_for(self._act(), 60)
                except TimeoutError:
                    pass
                except TROUBLES:
                    await asyncio.sleep(1)
                await asyncio.sleep(self._rng.expovariate(1 / self._hurry))
        finally:
            await self._person.__aexit__(None, None, None)

    async def _arrive(self) -> bool:
        for _ in range(30):
            try:
                await self._person.__aenter__()
                return True
            except TROUBLES:
                await asyncio.sleep(1)
        return False

    # --- what one does next

    async def _act(self) -> None:
        rng = self._rng
        if rng.random() < 0.85:
            if (message := self._newest("cancel_collection")) and await self._collect(message):
                return None
            if (message := self._newest("agree")) and not self._newest("cancel_collection") and not self._has_agreed:
                self._has_agreed = True
                return await self._press(message, "agree")
        acts: list[tuple[float, Callable[[], object]]] = [
            (4, lambda: self._say("/train")),
            (5, self._order_portrait),
            (1, lambda: self._say(rng.choice(["/start", "/privacy", "/queue", "/results", "/models", "hello"]))),
            (1, lambda: self._press_anything("again")),
            (0.7, lambda: self._press_anything("original")),
            (0.6, lambda: self._press_anything("cancel_job")),
            (0.6, lambda: self._press_anything("retry")),
            (0.3, lambda: self._press_anything("delete_portrait")),
            (0.5, self._cancel),
            (0.25, self._forget),
            (0.5, self._stray_photo),
        ]
        weights = [weight for weight, _ in acts]
        await rng.choices([act for _, act in acts], weights)[0]()  # type: ignore[misc]
        return None

    async def _collect(self, message: Json) -> bool:
        """Photos until there are enough, then Start. False when there is nothing to do but wait."""
        rng, session = self._rng, _value(message, "cancel_collection")
        is_over = session in self._over
        if is_over and not _has(message, "start"):
            return False
        if not is_over and self.ledger.photos[session] < ENOUGH:
            await self._send_photos(session, rng.choice([ENOUGH, 6, 7, 2, 3]))
            return True
        if _has(message, "start"):
            await self._press(message, rng.choices(["start", "remove_last", "cancel_collection"], [12, 1, 1])[0])
            return True
        if not is_over and rng.random() < 0.1:
            await self._send_photos(session, 1)
            return True
        return False

    async def _send_photos(self, session: str, count: int) -> None:
        count = min(count, 18 - self.ledger.photos[session])
        if count <= 0:
            return
        photos = [(f"{n}.jpg", selfie(self._rng.randrange(60))) for n in range(count)]
        self.ledger.acts["photo"] += count
        self.ledger.photos[session] += count
        if self._has_lost_track:
            self.ledger.unsure.add(session)
            self.ledger.strays += count
        try:
            if self._rng.random() < 0.3:
                for photo in photos:
                    await self._person.send_photos([photo])
            else:
                await self._person.send_photos(photos, as_files=self._rng.random() < 0.2)
        except BaseException:
            self.ledger.unsure.add(session)
            raise
        await self._wait(lambda m: _has(m, "start") and _value(m, "start") == session, PATIENCE_S)

    async def _order_portrait(self) -> None:
        await self._say("/portrait")
        gallery = await self._wait(lambda m: _has(m, "use") or _has(m, "train"), PATIENCE_S)
        if gallery and _has(gallery, "use"):
            await self._press(gallery, "use")

    async def _cancel(self) -> None:
        self.ledger.unsure.update(self.ledger.photos)  # whichever of them is open goes, jobs or no jobs
        await self._say("/cancel")
        await self._wait_until_heard()

    async def _forget(self) -> None:
        await self._say("/forget")
        question = await self._wait(lambda m: _has(m, "forget_yes"), PATIENCE_S)
        if question is None:
            return
        await self._press(question, "forget_yes", is_twice=False)
        last_question = self._newest("forget_sure") or await self._wait(lambda m: _has(m, "forget_sure"), PATIENCE_S)
        if last_question is None:
            return
        is_the_end = self._rng.random() < 0.5
        self.ledger.forgot_at.append(time.time())
        await self._press(last_question, "forget_sure")
        self.ledger.photos.clear()
        self.ledger.unsure.clear()
        self._has_agreed = False
        self.ledger.has_left = is_the_end
        if not is_the_end:
            await self._wait_until_heard()

    async def _wait_until_heard(self) -> None:
        """Until the bot has heard everything said so far, in order; who gives up waiting has lost track."""
        self._over.update(_value(m, "cancel_collection") for m in self._person.messages.values() if _is_open(m))
        since = len(self._person.seen)
        await self._say("/help")  # nobody says that for any other reason here
        answer = _plain(str(texts.say(r.Help(), self._language)))
        heard = await self._wait(lambda m: _plain(words(m)) == answer, 40, since)
        self._over.update(_value(m, "cancel_collection") for m in self._person.messages.values() if _is_open(m))
        self._has_lost_track |= heard is None

    async def _stray_photo(self) -> None:
        """A photo when nobody asked for one; it may happen to fall into an open collection."""
        if self._newest("cancel_collection") is None:
            await self._person.send_photos([("stray.jpg", selfie(61))])
            self.ledger.acts["stray photo"] += 1
            self.ledger.strays += 1

    # --- how one does it

    async def _say(self, words: str) -> None:
        self.ledger.acts[words.split()[0]] += 1
        await self._person.say(words)
        await asyncio.sleep(self._rng.uniform(0.2, 1.0))

    async def _press_anything(self, action: str) -> None:
        found = [m for m in self._person.messages.values() if _has(m, action)]
        if found:
            await self._press(self._rng.choice(found), action)

    async def _press(self, message: Json, action: str, *, is_twice: bool | None = None) -> None:
        button = find_button(message, action)
        if button is None:
            return
        if action in ("start", "cancel_collection", "remove_last"):
            session = _value(message, action)
            if action != "start":
                self.ledger.unsure.add(session)
            if action != "remove_last":
                self._over.add(session)
        self.ledger.acts[f"[{action}]"] += 1
        await self._person.press(message, button)
        if is_twice or (is_twice is None and self._rng.random() < 0.25):
            self.ledger.acts["pressed twice"] += 1
            await self._person.press(message, button)
        await asyncio.sleep(self._rng.uniform(0.1, 1.0))

    async def _wait(self, is_it: Callable[[Json], bool], limit_s: float, since: int | None = None) -> Json | None:
        since = len(self._person.seen) if since is None else since
        try:
            return await self._person.wait_message(is_it, limit_s, since=since)
        except TimeoutError:
            return None

    def _newest(self, action: str) -> Json | None:
        found = [m for m in self._person.messages.values() if m["from"]["is_bot"] and _has(m, action)]
        return found[-1] if found else None


def _is_open(message: Json) -> bool:
    return bool(message["from"]["is_bot"]) and _has(message, "cancel_collection")


def _plain(sentence: str) -> str:
    return " ".join(sentence.split())


def _has(message: Json, action: str) -> bool:
    return find_button(message, action) is not None


def _value(message: Json, action: str) -> str:
    return next(choice_in(b)[1] for b in buttons(message) if choice_in(b)[0] == action)
