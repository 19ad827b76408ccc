"""One visit to the studio, played by a program: consent, selfies, training, a template, a portrait.

It does what a person would do in the chat and knows only what the chat shows; buttons are found by what they do, so it
works in every language.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bot.sandbox.person import Person, buttons, choice_in, find_button, words
from bot.sandbox.transcript import Transcript
from bot.sandbox.world import Json

ANSWER_S = 30.0  # for what needs no worker
VERDICTS_S = 240.0  # the first check waits for the engine to start
LOOK_EVERY_S = 0.25
CHECKING = "⏳"  # in the status message, in every language, until all photos have their verdicts
READ_S = 0.6  # a person looks before pressing; also what an edit that follows at once needs to arrive


IsSo = Callable[[], Awaitable[bool]]


class VisitFailed(Exception):
    """The conversation did not come to its end; the sentence says where and what the bot said last."""


class TemplateUnusable(VisitFailed):
    """The person's own picture cannot be a template; the sentence is the bot's."""


@dataclass
class Visitor:
    """The steps of a visit. `waits` are the seconds that the person waited, by what for."""

    person: Person
    transcript: Transcript
    waits: dict[str, float] = field(default_factory=dict)
    _ordered_at: int = 0  # how much was seen before the last order: its outcome may come before anybody waits for it

    async def begin(self) -> None:
        """/start, then /train and consent; ends when the bot takes photos."""
        since = self._now()
        await self.person.say("/start")
        await self._message("an answer to /start", lambda m: True, since, ANSWER_S)
        since = self._now()
        await self.person.say("/train")
        asked = await self._message(
            "consent or a collection", lambda m: _has(m, "agree") or _has(m, "cancel_collection"), since, ANSWER_S
        )
        if _has(asked, "agree"):
            since = self._now()
            await self.press(asked, "agree")
            await self._message("a collection", lambda m: _has(m, "cancel_collection"), since, ANSWER_S)

    async def send_photos(self, photos: Sequence[Path]) -> list[Json]:
        """Sends them as albums; what was sent: {"file", "message"} each, in order."""
        self.transcript.sent([photo.name for photo in photos])
        return await self.person.send_photos(photos)

    async def verdicts(self, is_checked: Callable[[str], Awaitable[bool]]) -> Json:
        """The status message once every photo has its verdict; `is_checked` says whether a collection is judged."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        collection = await self._message("a collection", lambda m: _has(m, "cancel_collection"), 0, ANSWER_S)
        session_id = choice_in(_button(collection, "cancel_collection"))[1]
        await self._until("verdicts on the photos", lambda: is_checked(session_id), VERDICTS_S)
        self.waits["verdicts"] = loop.time() - start

        def newest() -> Json:
            return self._latest(lambda m: _has(m, "cancel_collection"))

        async def is_shown() -> bool:
            return CHECKING not in words(newest())

        while True:  # an edit that was on its way may still say that the photos are looked at
            await self._until("the message with the verdicts", is_shown, ANSWER_S)
            await asyncio.sleep(READ_S)
            if await is_shown():
                return newest()

    async def press(self, message: Json, action: str) -> None:
        button = _button(message, action)
        self.transcript.pressed(button["text"])
        pressed = await self.person.press(message, button)
        answer = await self.person.answer_to(pressed, ANSWER_S)
        if answer["text"]:
            raise VisitFailed(f"the bot refused the button “{button['text']}”: {answer['text']}")

    async def order(self, message: Json, action: str) -> str:
        """Presses a button that starts a job; the job's id."""
        since = self._ordered_at = self._now()
        await self.press(message, action)
        working = await self._message("the job's message", lambda m: _has(m, "cancel_job"), since, ANSWER_S)
        return choice_in(_button(working, "cancel_job"))[1]

    async def outcome(self, what: str, action: str, has_failed: IsSo, limit_s: float) -> Json:
        """What the job ordered last ends with, known by one of its buttons. Raises VisitFailed when it fails."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        waiting = asyncio.create_task(self._message(what, lambda m: _has(m, action), self._ordered_at, limit_s))
        try:
            # The question is never cancelled half-way: it may hold a lock on the database.
            while not waiting.done() and not await has_failed():
                await asyncio.wait({waiting}, timeout=LOOK_EVERY_S)
            await asyncio.wait({waiting}, timeout=2 * READ_S)  # a sentence about a failure is on its way
            if not waiting.done():
                raise VisitFailed(f"there is no {what}: {self._last_words()}")
            return waiting.result()
        finally:
            self.waits[what] = loop.time() - start
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def find_template(self, name: str) -> Json:
        """Pages through the gallery to a built-in template; the message that shows it, with its button "use"."""
        since = self._now()
        await self.person.say("/portrait")
        page = await self._message("the gallery", lambda m: "photo" in m and _has(m, "own_template"), since, ANSWER_S)
        seen: set[str] = set()
        while choice_in(_button(page, "use"))[1] != name:
            page = await self._turn(page, seen)
        return page

    async def bring_template(self, picture: Path) -> Json:
        """Hands over an own template as a file; the message with its button "use". Raises TemplateUnusable."""
        since = self._now()
        await self.person.say("/portrait")
        gallery = await self._message("the gallery", lambda m: _has(m, "own_template"), since, ANSWER_S)
        since = self._now()
        await self.press(gallery, "own_template")
        await self._message("the question for a picture", lambda m: True, since, ANSWER_S)
        since = self._now()
        self.transcript.sent([picture.name])
        await self.person.send_photos([picture], as_files=True)
        judged = await self._message(
            "the verdict on the template",
            lambda m: _has(m, "use") or (_has(m, "own_template") and _has(m, "gallery")),
            since,
            VERDICTS_S,
        )
        if not _has(judged, "use"):
            raise TemplateUnusable(" ".join(words(judged).split()))
        return judged

    async def original(self, portraits: Json) -> list[bytes]:
        """The portraits as files in full quality, one by one."""
        files = []
        for button in [b for b in buttons(portraits) if choice_in(b)[0] == "original"]:
            since = self._now()
            self.transcript.pressed(button["text"])
            await self.person.press(portraits, button)
            sent = await self._message("the original file", lambda m: "document" in m, since, ANSWER_S)
            files.append(await self.person.media(sent["document"]["file_id"]))
        return files

    async def _turn(self, page: Json, seen: set[str]) -> Json:
        """A page of the gallery that was not seen: around the category, then on to the next one."""
        turns = [button for button in buttons(page) if choice_in(button)[0] == "gallery"]
        turns[:2] = reversed(turns[:2])  # forward before back
        for button in turns:
            place = choice_in(button)[1]
            if place not in seen:
                seen.add(place)
                since = self._now()
                self.transcript.pressed(button["text"])
                await self.person.press(page, button)
                return await self._message("the next template", lambda m: _has(m, "own_template"), since, ANSWER_S)
        raise VisitFailed("the template is not in the gallery")

    # -- waiting

    def _now(self) -> int:
        return len(self.person.seen)

    async def _message(self, what: str, is_it: Callable[[Json], bool], since: int, limit_s: float) -> Json:
        try:
            return await self.person.wait_message(is_it, limit_s, since=since)
        except TimeoutError:
            raise VisitFailed(
                f"waited {limit_s:.0f} s for {what}; the bot's last words: {self._last_words()}"
            ) from None

    async def _until(self, what: str, is_so: IsSo, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                while not await is_so():  # noqa: ASYNC110 - it asks the database
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            raise VisitFailed(
                f"waited {limit_s:.0f} s for {what}; the bot's last words: {self._last_words()}"
            ) from None

    def _latest(self, is_it: Callable[[Json], bool]) -> Json:
        return next(m for m in reversed(self.person.messages.values()) if m["from"]["is_bot"] and is_it(m))

    def _last_words(self) -> str:
        said = [words(m) for m in self.person.messages.values() if m["from"]["is_bot"] and words(m)]
        return " ".join(said[-1].split()) if said else "nothing"


def _has(message: Json, action: str) -> bool:
    return find_button(message, action) is not None


def _button(message: Json, action: str) -> Json:
    button = find_button(message, action)
    if button is None:
        raise VisitFailed(f"no button for {action} under: {' '.join(words(message).split())}")
    return button
