"""What people send by mistake or malice: each gets its sentence, and it costs nothing else."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Awaitable, Callable

from PIL import Image

from bot import replies as r
from bot import texts
from bot.domain import MAX_PHOTOS, MIN_PHOTOS
from bot.replies import Reply
from bot.sandbox.person import Person, find_button, words
from tests.e2e.conftest import Studio, selfie

LIMIT_S = 60.0


def png_bomb(side: int = 10_000) -> bytes:
    """A hundred million black pixels in some kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    row = bytes(1 + side // 8)
    pixels = zlib.compressobj(9)
    packed = b"".join(pixels.compress(row) for _ in range(side)) + pixels.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def animated_gif() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("P", (64, 64), color) for color in (1, 2, 3)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


async def hears(person: Person, reply: Reply, doing: Callable[[], Awaitable[object]]) -> None:
    """The bot answers it with exactly this reply."""
    since = len(person.seen)
    await doing()
    expected = str(texts.say(reply, "en")).strip()
    await person.wait_message(lambda m: words(m) == expected, LIMIT_S, since=since)


async def test_each_mistake_gets_its_sentence_and_costs_nothing_else(studio: Studio) -> None:
    studio.start_worker()
    studio.start_bot()
    async with studio.visitor() as visitor:
        person = visitor.person
        await hears(person, r.NoSubject(is_training=False), lambda: person.say("/portrait"))
        await hears(person, r.NoCollection(), lambda: person.send_photos([("early.jpg", selfie(0))]))
        await visitor.begin()
        for name, data, reason in (
            ("bomb.png", png_bomb(), "too_many_pixels"),
            ("half.jpg", selfie(1)[: len(selfie(1)) // 2], "unreadable"),
            ("text.jpg", b"This is a text.", "not_a_picture"),
            ("moving.gif", animated_gif(), "animated"),
            ("notes.txt", b"This is a text.", "not_a_picture"),
        ):
            said = r.PhotoNotTaken(reason)
            await hears(person, said, lambda n=name, d=data: person.send_photos([(n, d)], as_files=True))

        # Four photos are not enough, also when one presses a button that is not there.
        await person.send_photos([(f"{i}.jpg", selfie(i)) for i in range(MIN_PHOTOS - 1)])
        collection = await visitor.verdicts(studio.is_judged)
        assert find_button(collection, "start") is None

        # The rest up to twenty-one: twenty are taken, the last is told so.
        others = [(f"{i}.jpg", selfie(i)) for i in range(MIN_PHOTOS - 1, MAX_PHOTOS + 1)]
        await hears(person, r.PhotoNotTaken("too_many_photos"), lambda: person.send_photos(others))
        collection = await visitor.verdicts(studio.is_judged)
        training = await visitor.order(collection, "start")
        await visitor.outcome("trained model", "gallery", lambda: studio.has_failed(training), LIMIT_S)
        async with studio.db.transaction() as store:
            job = await store.jobs.get(training)
        assert job is not None
        assert len(job.payload["photos"]) == MAX_PHOTOS


async def test_buttons_of_others_do_nothing(studio: Studio) -> None:
    studio.start_bot()
    async with studio.visitor() as visitor, Person(studio.sandbox.url, 2002, chat=1001) as mallory:
        await visitor.begin()
        collection = next(m for m in visitor.person.messages.values() if find_button(m, "cancel_collection"))
        button = find_button(collection, "cancel_collection")
        assert button is not None
        answer = await mallory.answer_to(await mallory.press_data(collection, button["callback_data"]))
        assert answer["text"] == texts.alert(r.NotYours(), "en")
        assert answer["is_alert"]
        await visitor.press(collection, "cancel_collection")
