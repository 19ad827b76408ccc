"""What follows from what people say: one transaction per event, and what has to be done outside of the database."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from bot.actor import Actor, Aftermath, picture_key
from bot.acts import ShowJob, Tell, Telling
from bot.admin import Desk, is_for_admin
from bot.chat import ChatError
from bot.conversation import advance, takes_pictures
from bot.core import Incoming
from bot.db.store import Store
from bot.db.turns import UnsaidTurn
from bot.dialogue import (
    CONSENT_VERSION,
    Facts,
    Heard,
    PictureKept,
    PictureNotTaken,
    Pressed,
    SentPicture,
)
from bot.domain import MessageRef, Person, new_id
from bot.intake import NotTaken
from bot.packing import pack_dialogue, pack_telling, unpack_dialogue
from bot.parts import Parts
from bot.quotas import Quotas
from bot.replies import Choice, OutOfDate, Refused, Reply

logger = logging.getLogger(__name__)

_FORGET = Pressed(Choice("forget_sure"))


@dataclass
class Handled:
    """A handled event: the turn that is now stored, what the pressed button answers, what is left to be done."""

    turn: UnsaidTurn | None
    alert: Reply | None
    aftermath: Aftermath
    has_jobs: bool = False  # ordered or changed


async def hear(parts: Parts, incoming: Incoming) -> Heard | None:
    """What was said, with a picture decoded and stored. None when the event was handled before."""
    said = incoming.said
    if not isinstance(said, SentPicture):
        return said
    async with parts.db.reading() as store:
        if await store.turns.is_known(incoming.address.platform, incoming.event_id):
            return None
        person = await store.people.find(incoming.address)
        if person is None:
            return PictureNotTaken("expired")
        dialogue = unpack_dialogue(person.dialogue)
        facts = await _facts_for_picture(store, person, incoming)
    if not takes_pictures(dialogue, facts):
        return PictureNotTaken("expired")
    taken = await parts.intake.take(said.data)
    if isinstance(taken, NotTaken):
        return PictureNotTaken(taken.reason)
    picture_id = new_id()
    await parts.blobs.put(picture_key(dialogue, person.user_id, picture_id), taken.jpeg)
    return PictureKept(picture_id)


async def converse(parts: Parts, incoming: Incoming, heard: Heard) -> Handled | None:
    """One transaction: the event's id, the new dialogue, orders, what is to be said. None when the event is known."""
    now = parts.clock()
    async with parts.db.transaction() as store:
        if await store.turns.is_known(incoming.address.platform, incoming.event_id):
            return None
        if incoming.said == _FORGET and await store.people.find(incoming.address) is None:
            # Pressed twice: that must not make somebody known again whom we have just forgotten.
            return Handled(None, OutOfDate(), Aftermath())
        person = await store.people.meet(incoming.address, incoming.language, now)
        dialogue = unpack_dialogue(person.dialogue)
        tellings: list[Telling]
        alert: Reply | None = None
        if is_for_admin(parts, incoming, heard):
            desk = Desk(parts, store, incoming, now)
            tellings, aftermath = [Tell(await desk.answer(heard))], desk.aftermath
        else:
            step = advance(dialogue, heard, await gather_facts(parts, store, person, incoming))
            work = Actor(parts, store, person, incoming, dialogue, now)
            tellings, alert = await work.carry_out(step)
            if step.dialogue != dialogue:
                await store.people.keep_dialogue(incoming.address, pack_dialogue(step.dialogue))
            aftermath = work.aftermath
        packed = tuple(pack_telling(telling) for telling in tellings)
        turn = UnsaidTurn(incoming.event_id, incoming.address, incoming.language, packed, incoming.pressed)
        await store.turns.add(turn, now)
        if incoming.inbox_id is not None:
            await store.mail.done(incoming.address.platform, incoming.inbox_id)
    return Handled(turn, alert, aftermath, any(isinstance(telling, ShowJob) for telling in tellings))


async def clean_up(parts: Parts, handled: Handled) -> None:
    """Deletes outside of the database what is gone inside. Whatever is missed here, the reconciler finds."""
    after = handled.aftermath
    for job in after.jobs:
        await parts.queue.withdraw(job.job_id, job.attempt)
    for key in after.blobs:
        await parts.blobs.delete_prefix(key)
    for ref in after.messages:
        await delete_message(parts, ref)


async def delete_message(parts: Parts, ref: MessageRef) -> bool:
    chat = parts.chats.get(ref.address.platform)
    try:
        return chat is not None and await chat.delete(ref)
    except ChatError as error:
        logger.info("a message could not be deleted: %s", error)
        return False


async def gather_facts(parts: Parts, store: Store, person: Person, incoming: Incoming) -> Facts:
    guild_id = incoming.place.guild_id if incoming.place else None
    user_id, quotas = person.user_id, Quotas(store, parts.settings, parts.clock(), guild_id)
    jobs = await store.jobs.open_of(user_id, ("train", "portrait", "check_template"))
    training = next((job for job in jobs if job.kind == "train"), None)
    place = await store.jobs.place_of(training, parts.workers) if training else None
    subjects = tuple(await store.library.subjects(user_id))
    retraining_quota = await quotas.training(user_id, is_new=False)
    standing = await store.people.standing(user_id, incoming.address, CONSENT_VERSION)
    return Facts(
        new_id=new_id(),
        is_private=incoming.is_private,
        has_consented=standing.has_consented,
        subjects=subjects,
        collection=await store.collections.open_one(user_id),
        training=training.view(place) if training else None,
        has_jobs=bool(jobs),
        training_quota=quotas.subjects(len(subjects)) or retraining_quota,
        retraining_quota=retraining_quota,
        template_quota=quotas.template(standing.templates),
        refusal=Refused("blocked") if standing.is_blocked else await _hurdle(store, incoming),
    )


async def _facts_for_picture(store: Store, person: Person, incoming: Incoming) -> Facts:
    """Those of the facts that say whether a picture is wanted."""
    standing = await store.people.standing(person.user_id, incoming.address, CONSENT_VERSION)
    return Facts(
        new_id="",
        is_private=incoming.is_private,
        has_consented=standing.has_consented,
        collection=await store.collections.open_one(person.user_id),
        refusal=Refused("blocked") if standing.is_blocked else await _hurdle(store, incoming),
    )


async def _hurdle(store: Store, incoming: Incoming) -> Refused | None:
    """Why nothing may be ordered in this place by this person; None when it may."""
    place = incoming.place
    hurdle = (await store.operations.guild(place.guild_id)).hurdle(place) if place else None
    return Refused(hurdle) if hurdle else None
