"""Brings what is stored into the chats: answers, the status message of a collection, the message of a job.

Everything shown is computed from the database when it is shown, so that a crash anywhere repeats a step at worst. What
a chat refuses for now stays unsaid and is tried again by the reconciler.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from bot import replies as r
from bot.acts import ShowCollection, ShowJob, Tell, Telling
from bot.chat import ChatError
from bot.db.store import Store
from bot.db.turns import UnsaidTurn
from bot.domain import (
    MAX_PHOTOS,
    MIN_PHOTOS,
    Address,
    JobStatus,
    Language,
    MessageRef,
    StoredJob,
    Template,
)
from bot.face_numbers import put_numbered
from bot.lookups import Lookups
from bot.ordering import Ordering
from bot.outcomes import outcome
from bot.packing import unpack_telling
from bot.parts import Parts
from bot.replies import Reply

logger = logging.getLogger(__name__)

# The ends that people wait for get a message of their own, because an edit rings no bell.
_RINGS = ("train", "portrait")
_OUTAGE_S = 20.0  # of the database, that is waited out before what was said is noted


@dataclass(frozen=True)
class _Shown:
    """A job's reply, and where it is due."""

    job: StoredJob
    reply: Reply
    language: Language
    template: Template | None


class Delivery:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._painted: dict[str, Reply] = {}  # job -> what its message says, to spare edits that change nothing

    # --- answers ---

    async def answer(self, platform: str, person: str) -> None:
        """Says everything that is still to be said to a person. Raises nothing that a chat can cause."""
        async with self._parts.locks.held("answer", platform, person):
            async with self._parts.db.reading() as store:
                turns = await store.turns.unsaid(platform, person)
            if not turns or platform not in self._parts.chats or (platform, person) in self._parts.erasing:
                return
            try:
                await self._say_turns(turns)
            except ChatError as error:
                await self._not_taken(turns, error)

    async def _say_turns(self, turns: list[UnsaidTurn]) -> None:
        """In order; what an album of photos causes is said once, at the end."""
        late: list[UnsaidTurn] = []
        album: list[Tell | ShowCollection] = []
        for turn in turns:
            now, later = _split(turn)
            await self._tell(now, turn, [] if later else [turn])
            album += later
            late += [turn] if later else []
        if late:
            await self._tell(_said_once(album), late[-1], late)

    async def _tell(self, tellings: Sequence[Telling], turn: UnsaidTurn, said: list[UnsaidTurn]) -> None:
        """Says it in the place of `turn`; with that, `said` are said. Each message is noted as soon as it is sent."""
        for number, telling in enumerate(tellings, 1):
            refs = await self._say(telling, turn)
            await self._note(turn.address, refs, said if number == len(tellings) else [])

    async def _say(self, telling: Telling, turn: UnsaidTurn) -> list[MessageRef]:
        """The messages that are not noted yet."""
        match telling:
            case Tell(reply, in_place):
                chat = self._parts.chats[turn.address.platform]
                if isinstance(reply, r.ChooseFace):
                    await put_numbered(self._parts.blobs, reply.template.key, reply.picture_key, reply.boxes)
                if in_place and turn.pressed:
                    return [await chat.update(turn.pressed, reply, turn.language)]
                return await chat.send(turn.address, reply, turn.language)
            case ShowCollection(session_id, anew):
                await self.show_collection(session_id, anew=anew)
            case ShowJob(job_id):
                await self.show_job(job_id)
        return []

    async def _note(self, address: Address, refs: list[MessageRef], said: list[UnsaidTurn]) -> None:
        """In one transaction: the messages just sent, and the turns that are said with them."""
        if not refs and not said:
            return

        async def write() -> None:
            async with self._parts.db.transaction(lasting=False) as store:
                await self._keep_messages(store, address, refs)
                if said:
                    await store.turns.said(address, [turn.event_id for turn in said], self._parts.clock())

        await self._parts.db.outlasting(write, _OUTAGE_S)

    async def _not_taken(self, turns: list[UnsaidTurn], error: ChatError) -> None:
        self._parts.metrics.refused(turns[0].address.platform, for_good=error.is_permanent)
        logger.info("an answer was not taken (%s): %s", "for good" if error.is_permanent else "for now", error)
        if error.is_permanent:
            async with self._parts.db.transaction() as store:
                await store.people.mark_dead(turns[0].address)
            await self._note(turns[0].address, [], turns)

    # --- a collection ---

    async def show_collection(self, session_id: str, *, anew: bool = False) -> None:
        """Orders the check that is due and brings the status message up to date. Raises ChatError."""
        async with self._parts.locks.held("collection", session_id):
            async with self._parts.db.transaction() as store:
                stored = await store.collections.get(session_id)
                if stored is None or stored.state != "collecting":
                    return
                await Ordering(store, self._parts.settings, self._parts.clock()).inspection(stored)
                person = await store.people.find(stored.address)
                subjects = await store.library.subjects(stored.user_id)
            retrains = next((s.name for s in subjects if s.subject_id == stored.collection.retrains_id), "")
            self._parts.relay_wanted.set()
            chat = self._parts.chats.get(stored.address.platform)
            if person is None or chat is None:
                return
            here = stored.collection
            reply = r.CollectingPhotos(
                *(session_id, here.photos, MIN_PHOTOS, MAX_PHOTOS, here.is_checking, here.can_start),
                keeps_photos=here.keeps_photos or self._parts.settings.keep_photos,
                retrains=retrains,
            )
            if stored.message and not anew:
                ref = await chat.update(stored.message, reply, person.language)
            else:
                ref = (await chat.send(stored.address, reply, person.language))[-1]
            if ref != stored.message:
                await self._keep_or_take_back(stored.address, [ref], shows_session_id=session_id)
            if stored.message and anew:
                with suppress(ChatError):  # it stays above the new one at worst
                    await chat.delete(stored.message)

    # --- a job ---

    async def show_job(self, job_id: str) -> None:
        """Brings a job's message up to date; shows its outcome once. Raises ChatError."""
        async with self._parts.locks.held("job", job_id):
            async with self._parts.db.reading() as store:
                job = await store.jobs.get(job_id)
                if job is None or job.shown == "yes":
                    return
                shown = await self._what_to_show(store, job)
            if shown is None:
                if job.status.is_final:  # there is nobody to show it to, or nothing to show
                    await self._note_shown(job, "yes")
                return
            if job.address.platform not in self._parts.chats:
                return
            if job.shown == "closing":
                await self._close(shown)
            elif job.status.is_final:
                self._painted.pop(job_id, None)
                await self._show_outcome(shown)
            elif self._painted.get(job_id) != shown.reply:
                await self._put(shown, shown.reply)
                self._painted[job_id] = shown.reply

    async def _what_to_show(self, store: Store, job: StoredJob) -> _Shown | None:
        person = await store.people.find(job.address)
        if person is None or await store.people.is_dead(job.address):
            return None
        template = None
        lookups = Lookups(store, self._parts.templates, job.user_id, self._parts.workers)
        if job.template_id:
            template = await lookups.template(job.template_id)
        if job.shown == "closing":
            reply: Reply | None = r.Working(job.view(), template)
        elif not job.status.is_final:
            view = job.view(await store.jobs.place_of(job, self._parts.workers))
            is_check = job.kind == "check_template"
            reply = r.OwnTemplateChecking() if is_check else r.Working(view, template)
        else:
            reply = await outcome(store, lookups, job)
        if reply is None or (job.kind == "inspect" and not job.status.is_final):
            return None
        return _Shown(job, reply, person.language, template)

    async def _show_outcome(self, shown: _Shown) -> None:
        job = shown.job
        async with self._parts.db.transaction() as store:
            await store.jobs.change(job.job_id, shown="showing")
        try:
            # Found in "showing": a crash came between sending and noting it. Editing a known message then shows the
            # outcome for certain and, if it had been shown, not once more as news.
            rings = job.kind in _RINGS and job.status is not JobStatus.CANCELLED and job.shown == "no"
            if rings:
                refs = await self._parts.chats[job.address.platform].send(job.address, shown.reply, shown.language)
                portrait_job_id = job.job_id if job.kind == "portrait" else None
                await self._keep_or_take_back(job.address, refs, portrait_job_id=portrait_job_id)
            else:
                await self._put(shown, shown.reply)
        except ChatError as error:
            if error.is_permanent:
                await self._note_shown(job, "yes", is_dead=True)
            elif error.retry_after_s is not None:
                await self._note_shown(job, "no")  # refused for certain, so the next try is again the first
            raise
        if rings and job.message:
            await self._note_shown(job, "closing")
            await self._close(shown)
        else:
            await self._note_shown(job, "yes")

    async def _close(self, shown: _Shown) -> None:
        """The message that showed the progress has done its work: no bar, no button. Raises ChatError."""
        try:
            await self._put(shown, r.Working(shown.job.view(), shown.template))
        except ChatError as error:
            if not error.is_permanent:
                raise
        await self._note_shown(shown.job, "yes")

    async def _note_shown(self, job: StoredJob, how: Literal["no", "closing", "yes"], *, is_dead: bool = False) -> None:
        async def write() -> None:
            async with self._parts.db.transaction(lasting=False) as store:
                await store.jobs.change(job.job_id, shown=how)
                if is_dead:
                    await store.people.mark_dead(job.address)

        await self._parts.db.outlasting(write, _OUTAGE_S)

    async def _put(self, shown: _Shown, reply: Reply) -> None:
        """Into the job's message; the first time, that message is made."""
        job, chat = shown.job, self._parts.chats[shown.job.address.platform]
        if job.message:
            ref = await chat.update(job.message, reply, shown.language)
        else:
            ref = (await chat.send(job.address, reply, shown.language))[-1]
        if ref != job.message:
            await self._keep_or_take_back(job.address, [ref], shows_job_id=job.job_id)

    async def _keep_or_take_back(self, address: Address, refs: list[MessageRef], **shows: str | None) -> None:
        """What was on its way while its person had themselves forgotten must not stay in the chat."""
        if not await self._keep(address, refs, **shows):
            for ref in refs:
                with suppress(ChatError):
                    await self._parts.chats[address.platform].delete(ref)

    async def _keep(
        self,
        address: Address,
        refs: list[MessageRef],
        *,
        portrait_job_id: str | None = None,
        shows_job_id: str | None = None,
        shows_session_id: str | None = None,
    ) -> bool:
        """Notes what was just sent. A message that is not noted is lost to edits and to /forget: an outage is waited
        out. False when there is nobody any more to note it for."""

        async def write() -> bool:
            async with self._parts.db.transaction(lasting=False) as store:
                if shows_job_id:
                    await store.jobs.set_message(shows_job_id, refs[-1])
                if shows_session_id:
                    await store.collections.set_message(shows_session_id, refs[-1])
                return await self._keep_messages(store, address, refs, portrait_job_id)

        return await self._parts.db.outlasting(write, _OUTAGE_S)

    async def _keep_messages(
        self, store: Store, address: Address, refs: list[MessageRef], portrait_job_id: str | None = None
    ) -> bool:
        """False when there is nobody any more to keep them for: they were just forgotten."""
        person = await store.people.find(address) if refs else None
        if person is None:
            return False
        for ref in refs:
            await store.people.keep_message(person.user_id, ref, self._parts.clock(), portrait_job_id)
        return True


class Painter:
    """Edits progress messages at a polite rate: per chat, and only when something changed."""

    def __init__(self, parts: Parts, delivery: Delivery, now_s: Callable[[], float] = time.monotonic) -> None:
        self._parts, self._delivery, self._now_s = parts, delivery, now_s
        self._due: dict[str, Address] = {}
        self._last_s: dict[tuple[str, str], float] = {}

    def note(self, job: StoredJob) -> None:
        """The job's message is out of date."""
        self._due[job.job_id] = job.address

    async def paint(self) -> None:
        """One edit in every chat whose turn it is."""
        now = self._now_s()
        for job_id, address in list(self._due.items()):
            chat = (address.platform, address.chat)
            if now - self._last_s.get(chat, -1e9) < self._parts.settings.progress_every_s:
                continue
            del self._due[job_id]
            self._last_s[chat] = now
            try:
                await self._delivery.show_job(job_id)
            except ChatError as error:
                logger.info("progress not shown: %s", error)
                self._last_s[chat] = now + (error.retry_after_s or 0)


def _split(turn: UnsaidTurn) -> tuple[list[Telling], list[Tell | ShowCollection]]:
    """What is said at once, and what waits for the end of an album."""
    now: list[Telling] = []
    later: list[Tell | ShowCollection] = []
    for data in turn.tellings:
        telling = unpack_telling(data)
        match telling:
            case (
                ShowCollection(anew=False)
                | Tell(
                    reply=r.PhotoNotTaken() | r.NoCollection() | r.OwnTemplateRefused() | r.AskConsent() | r.Refused()
                )
            ):
                later.append(telling)
            case _:
                now.append(telling)
    return now, later


def _said_once(album: list[Tell | ShowCollection]) -> list[Tell | ShowCollection]:
    """Refusals first, those for the same reason as one; the status message last."""
    counts: dict[str, int] = {}
    for telling in album:
        if isinstance(telling, Tell) and isinstance(telling.reply, r.PhotoNotTaken):
            counts[telling.reply.reason] = counts.get(telling.reply.reason, 0) + telling.reply.count
    refusals = [Tell(r.PhotoNotTaken(reason, count)) for reason, count in counts.items()]
    rest = [each for each in album if not (isinstance(each, Tell) and isinstance(each.reply, r.PhotoNotTaken))]
    return [*refusals, *dict.fromkeys(sorted(rest, key=lambda each: isinstance(each, ShowCollection)))]
