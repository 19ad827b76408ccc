"""The real Telegram frontend against the sandbox, with a stand-in for the core that notes what it hears."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import ClientSession
from PIL import Image
from pydantic import SecretStr

from bot import replies as r
from bot.chat import Chat, ChatError
from bot.core import Incoming
from bot.dialogue import Asked, PictureNotTaken, Pressed, SentPicture, Typed
from bot.domain import Address, JobStatus, JobView, PhotoVerdict, PortraitView, Template
from bot.replies import Reply
from bot.sandbox.person import Person, buttons, words
from bot.sandbox.server import Sandbox
from bot.settings import Settings
from bot.telegram_chat import TelegramTokenRefused, run_telegram
from gpu_worker.contract.blobs import BlobNotFound

ME = Address("telegram", "1001", "1001")
TEMPLATE = Template("studio_01", "studio", {"en": "Studio", "zh": "影棚"}, "templates/studio_01.jpg")
WAIT_S = 60


def jpeg(color: str = "red", size: tuple[int, int] = (640, 480)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "JPEG")
    return out.getvalue()


@dataclass
class NotedInbox:
    """Survives the frontend, as a database does."""

    raw: dict[int, str] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)

    async def store(self, platform: str, raws: Mapping[int, str]) -> set[int]:
        new = raws.keys() - self.raw.keys()
        self.raw = {**raws, **self.raw}
        return new

    async def done(self, platform: str, update_id: int) -> None:
        self.finished.add(update_id)

    async def pending(self, platform: str) -> list[str]:
        return [raw for number, raw in sorted(self.raw.items()) if number not in self.finished]


@dataclass
class OneFolder:
    files: dict[str, bytes]

    async def get(self, key: str) -> bytes:
        if key not in self.files:
            raise BlobNotFound(key)
        return self.files[key]


class Listener:
    """The core's place: notes what it is told and answers what the test wants."""

    def __init__(self, url: str, token: str) -> None:
        self.settings = Settings(_env_file=None, telegram_token=SecretStr(token), telegram_api_url=url)
        self.inbox = NotedInbox()
        self.blobs: Any = OneFolder({"templates/studio_01.jpg": jpeg("blue"), "p/1.jpg": jpeg(), "p/2.jpg": jpeg()})
        self.heard: list[Incoming] = []
        self.chat: Chat | None = None
        self.files: dict[str, str] = {}
        self.answer: Callable[[Incoming], Reply | None] = lambda incoming: None
        self.is_hanging = False

    async def handle(self, incoming: Incoming) -> Reply | None:
        if self.is_hanging:
            await asyncio.Event().wait()
        self.heard.append(incoming)
        return self.answer(incoming)

    def register(self, platform: str, chat: Chat) -> None:
        self.chat = chat

    async def kept_file(self, platform: str, key: str) -> str | None:
        return self.files.get(key)

    async def keep_file(self, platform: str, key: str, file_id: str) -> None:
        self.files[key] = file_id

    @property
    def port(self) -> Chat:
        assert self.chat is not None
        return self.chat

    async def until(self, count: int) -> list[Incoming]:
        async with asyncio.timeout(WAIT_S):
            while len(self.heard) < count:  # noqa: ASYNC110 - the stand-in is simpler than a condition
                await asyncio.sleep(0.01)
        return self.heard


@asynccontextmanager
async def running(app: Listener) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    task = asyncio.create_task(run_telegram(app, stop))
    app.chat = None
    async with asyncio.timeout(WAIT_S):
        while app.chat is None and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    try:
        yield stop
    finally:
        stop.set()
        await task


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as server:
        yield server


@pytest.fixture
async def app(sandbox: Sandbox) -> AsyncIterator[Listener]:
    listener = Listener(sandbox.url, sandbox.token)
    async with running(listener):
        yield listener


@pytest.fixture
async def alice(sandbox: Sandbox) -> AsyncIterator[Person]:
    async with Person(sandbox.url, 1001) as person:
        yield person


async def test_commands_and_texts_arrive_as_what_was_said(app: Listener, alice: Person) -> None:
    await alice.say("/start from_a_group")
    await alice.say("/train@portrait_sandbox_bot")
    await alice.say("/start@another_bot")
    await alice.say("hello")
    heard = await app.until(3)
    assert [h.said for h in heard] == [Asked("start", "from_a_group"), Asked("train"), Typed("hello")]
    assert {h.address for h in heard} == {ME}
    assert len({h.event_id for h in heard}) == 3


async def test_an_album_arrives_photo_by_photo_with_its_group_and_in_order(app: Listener, alice: Person) -> None:
    await alice.send_photos([(f"{i}.jpg", jpeg(size=(2000 - i, 900))) for i in range(12)])
    said = [h.said for h in await app.until(12)]
    assert all(isinstance(s, SentPicture) and not s.is_original_file for s in said)
    groups = [s.group for s in said if isinstance(s, SentPicture)]
    assert len(set(groups[:10])) == 1
    assert len(set(groups[10:])) == 1
    assert groups[0] != groups[10]
    first = said[0]
    assert isinstance(first, SentPicture)
    assert Image.open(io.BytesIO(first.data)).size == (1280, 576), "the largest size is taken"


async def test_files_are_taken_as_they_are_and_only_when_they_may_be_pictures(app: Listener, alice: Person) -> None:
    whole = jpeg()
    gif = io.BytesIO()
    frames = [Image.new("P", (40, 40), i) for i in range(3)]
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    await alice.send_photos([("a.jpg", whole)], as_files=True)
    await alice.send_photos([("b.jpg", b"no picture at all")])
    await alice.send_photos([("c.txt", b"words")])
    await alice.send_photos([("d.gif", gif.getvalue())])
    await alice.send_photos([("big.jpg", whole + bytes(21_000_000))], as_files=True)
    said = [h.said for h in await app.until(5)]
    assert said == [
        SentPicture(whole, is_original_file=True),
        SentPicture(b"no picture at all", is_original_file=True),
        PictureNotTaken("not_a_picture"),
        PictureNotTaken("animated"),
        PictureNotTaken("too_big"),
    ]


async def test_a_button_works_for_its_person_only(app: Listener, alice: Person, sandbox: Sandbox) -> None:
    app.answer = lambda incoming: r.OutOfDate() if incoming.said == Pressed(r.Choice("decline")) else None
    await app.port.send(ME, r.AskConsent("2026-11"), "en")
    asked = await alice.wait_message(lambda m: bool(buttons(m)), WAIT_S)
    agree, decline = buttons(asked)
    assert not (await alice.answer_to(await alice.press(asked, agree)))["text"]
    assert app.heard[-1].said == Pressed(r.Choice("agree", "2026-11"))
    assert app.heard[-1].pressed is not None
    assert app.heard[-1].pressed.message_id == str(asked["message_id"])
    assert (await alice.answer_to(await alice.press(asked, decline)))["is_alert"]
    for forged in ("agree", "1:agree:2026-11:AAAAAAAA", agree["callback_data"][:-1] + "!", "0:old", ""):
        answer = await alice.answer_to(await alice.press_data(asked, forged or "x"))
        assert answer["is_alert"]
        assert answer["text"]
    async with Person(sandbox.url, 2002, chat=1001) as mallory:
        answer = await mallory.answer_to(await mallory.press_data(asked, agree["callback_data"]))
        assert answer["is_alert"]
    assert len(app.heard) == 2


async def test_a_group_is_told_to_come_to_the_private_chat(app: Listener, sandbox: Sandbox) -> None:
    async with Person(sandbox.url, 1001, chat=-5) as member:
        await member.say("/train")
        await member.send_photos([("a.jpg", jpeg())])
        heard = await app.until(1)
        assert not heard[0].is_private
        assert heard[0].address.chat == "-5"
        await app.port.send(heard[0].address, r.PrivateChatOnly(), "en")
        said = await member.wait_message(lambda m: True, WAIT_S)
        assert buttons(said)[0]["url"].startswith("https://t.me/portrait_sandbox_bot?start=")
    assert len(app.heard) == 1


async def test_work_is_one_message_that_changes(app: Listener, alice: Person, sandbox: Sandbox) -> None:
    def at(fraction: float) -> r.Working:
        job = JobView("job000001", "portrait", JobStatus.RUNNING, "train_lora", fraction)
        return r.Working(job, TEMPLATE)

    (ref,) = await app.port.send(ME, at(0.1), "en")
    assert ref.is_picture
    for fraction in (0.5, 0.5, 0.9):
        ref = await app.port.update(ref, at(fraction), "en")
    message = await alice.wait_message(lambda m: "▰▰▰▰▰▰▰▰▰▱ 90 %" in words(m), WAIT_S)
    assert message["message_id"] == int(ref.message_id)
    assert len(alice.messages) == 1
    methods = [c["method"] for c in sandbox.world.calls]
    assert methods.count("editMessageCaption") == 3
    assert "editMessageMedia" not in methods
    # A person who deletes the message gets a new one.
    await sandbox.world.delete_message(1001, int(ref.message_id))
    new = await app.port.update(ref, at(1.0), "en")
    assert new.message_id != ref.message_id


async def test_the_state_of_a_collection_follows_the_photos_down_the_chat(app: Listener, alice: Person) -> None:
    def state(count: int) -> r.CollectingPhotos:
        photos = tuple(PhotoVerdict(f"photo{n}", n) for n in range(1, count + 1))
        return r.CollectingPhotos("session1", photos, 5, 20, is_checking=True, can_start=False)

    (first,) = await app.port.send(ME, state(0), "en")
    await alice.send_photos([("1.jpg", jpeg())])
    await app.until(1)
    second = await app.port.update(first, state(1), "en")
    assert int(second.message_id) > int(first.message_id)
    third = await app.port.update(second, state(2), "en")
    assert third == second
    await alice.wait(lambda e: e["kind"] == "delete" and e["message_id"] == int(first.message_id), WAIT_S)


async def test_a_template_is_uploaded_once(app: Listener, alice: Person, sandbox: Sandbox) -> None:
    gallery = r.Gallery(TEMPLATE, 0, 3, "studio", ("studio",), can_use=True)
    await app.port.send(ME, gallery, "en")
    await app.port.send(ME, gallery, "en")
    chat = sandbox.world.chat(1001).messages
    photos = [m["photo"][-1]["file_id"] for m in chat.values()]
    assert app.files == {TEMPLATE.key: photos[0]}
    assert len(set(photos)) == 1


async def test_several_portraits_are_an_album_followed_by_the_buttons(
    app: Listener, alice: Person, sandbox: Sandbox
) -> None:
    portraits = tuple(PortraitView(f"portrait0{i}", f"p/{i}.jpg", 640, 480, 0.7) for i in (1, 2))
    (working,) = await app.port.send(ME, r.Working(JobView("job000001", "portrait", JobStatus.QUEUED)), "en")
    last = await app.port.update(working, r.OtherCandidates("job000001", portraits), "en")
    album, others = [], []
    for message in sandbox.world.chat(1001).messages.values():
        (album if "media_group_id" in message else others).append(message)
    assert len(album) == 2
    assert [m["message_id"] for m in others] == [int(last.message_id)]
    assert buttons(others[0])
    await app.port.send(ME, r.OriginalFile(portraits[0]), "en")
    sent = await alice.wait_message(lambda m: "document" in m, WAIT_S)
    assert sent["document"]["mime_type"] == "image/jpeg"


async def test_too_many_requests_are_waited_for_and_long_waits_are_told(
    app: Listener, alice: Person, sandbox: Sandbox
) -> None:
    async with ClientSession() as http:

        async def fail(**fault: Any) -> None:
            await http.post(f"{sandbox.url}/sandbox/faults", json=fault)

        too_many = {"method": "sendMessage", "error_code": 429, "description": "Too Many Requests: retry after"}
        await fail(**too_many, retry_after=1)
        start = time.monotonic()
        await app.port.send(ME, r.Help(), "en")
        assert 0.9 < time.monotonic() - start < 30
        await fail(**too_many, retry_after=60)
        with pytest.raises(ChatError) as told:
            await app.port.send(ME, r.Help(), "en")
        assert told.value.retry_after_s == 60
        assert not told.value.is_permanent
        await fail(method="sendMessage", error_code=502, description="Bad Gateway")
        with pytest.raises(ChatError) as told:
            await app.port.send(ME, r.Help(), "en")
        assert not told.value.is_permanent
    await alice.block()
    with pytest.raises(ChatError) as told:
        await app.port.send(ME, r.Help(), "en")
    assert told.value.is_permanent


async def test_a_chat_that_is_gone_is_left_alone(app: Listener, alice: Person) -> None:
    with pytest.raises(ChatError) as told:
        await app.port.send(Address("telegram", "404404", "404404"), r.Help(), "en")
    assert told.value.is_permanent


async def test_a_picture_larger_than_telegram_takes_is_shown_smaller_and_its_file_is_whole(
    app: Listener, alice: Person
) -> None:
    heavy = jpeg(size=(4000, 3000)) + bytes(10_500_000)
    app.blobs.files["p/heavy.jpg"] = heavy
    portrait = PortraitView("portrait01", "p/heavy.jpg", 4000, 3000, 0.7)
    await app.port.send(ME, r.PortraitsReady("job000001", (portrait,), 12.0), "en")
    shown = await alice.wait_message(lambda m: "photo" in m, WAIT_S)
    assert shown["photo"]
    await app.port.send(ME, r.OriginalFile(portrait), "en")
    sent = await alice.wait_message(lambda m: "document" in m, WAIT_S)
    assert await alice.media(sent["document"]["file_id"]) == heavy


async def test_a_message_that_is_gone_already_counts_as_deleted(app: Listener, alice: Person) -> None:
    (ref,) = await app.port.send(ME, r.Help(), "en")
    assert await app.port.delete(ref)
    assert await app.port.delete(ref), "nothing is left for the person to delete"


async def test_a_file_that_cannot_be_fetched_any_more_is_named(app: Listener, alice: Person, sandbox: Sandbox) -> None:
    async with ClientSession() as http:
        gone = {"method": "getFile", "error_code": 400, "description": "Bad Request: file is temporarily unavailable"}
        await http.post(f"{sandbox.url}/sandbox/faults", json=gone)
    await alice.send_photos([("a.jpg", jpeg())])
    assert (await app.until(1))[0].said == PictureNotTaken("expired")


async def test_a_chat_that_gets_much_gets_it_at_telegrams_pace(app: Listener, alice: Person, sandbox: Sandbox) -> None:
    start = time.monotonic()
    await asyncio.gather(*(app.port.send(ME, r.Help(), "en") for _ in range(13)))
    assert len(sandbox.world.chat(1001).messages) == 13
    assert time.monotonic() - start > 2, "ten at once, then one per second"


async def test_what_was_said_before_a_kill_is_heard_after_it(sandbox: Sandbox, alice: Person) -> None:
    app = Listener(sandbox.url, sandbox.token)
    app.is_hanging = True
    async with running(app) as stop:
        for number in range(5):
            await alice.say(f"word {number}")
        async with asyncio.timeout(WAIT_S):
            while len(app.inbox.raw) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        start = time.monotonic()
        stop.set()
    assert time.monotonic() - start < 30, "stopping does not wait for work that hangs"
    assert not app.heard
    assert not sandbox.world.memory.updates
    app.is_hanging = False
    async with running(app):
        heard = await app.until(5)
        assert [h.said for h in heard] == [Typed(f"word {i}") for i in range(5)]
        async with asyncio.timeout(WAIT_S):
            while await app.inbox.pending("telegram"):  # noqa: ASYNC110 - what was heard is done a moment later
                await asyncio.sleep(0.01)


async def test_a_slow_person_does_not_hold_up_another(sandbox: Sandbox, alice: Person) -> None:
    app = Listener(sandbox.url, sandbox.token)
    held = asyncio.Event()
    handle = app.handle

    async def slow_for_alice(incoming: Incoming) -> Reply | None:
        if incoming.address == ME:
            await held.wait()
        return await handle(incoming)

    app.handle = slow_for_alice  # type: ignore[method-assign]
    async with running(app), Person(sandbox.url, 2002) as bob:
        await alice.say("one")
        await alice.say("two")
        await bob.say("three")
        await app.until(1)
        held.set()
        heard = await app.until(3)
    assert [h.said for h in heard] == [Typed("three"), Typed("one"), Typed("two")]


async def test_a_refused_token_is_a_sentence(sandbox: Sandbox) -> None:
    app = Listener(sandbox.url, "42:another-token-another-token-another")
    with pytest.raises(TelegramTokenRefused, match="BotFather"):
        await run_telegram(app, asyncio.Event())


async def test_the_frontend_waits_for_a_server_that_is_not_there_yet() -> None:
    app = Listener("http://127.0.0.1:9", "42:sandbox-sandbox-sandbox-sandbox-sand")
    stop = asyncio.Event()
    task = asyncio.create_task(run_telegram(app, stop))
    await asyncio.sleep(0.3)
    assert not task.done()
    stop.set()
    await asyncio.wait_for(task, 30)


async def test_a_handler_that_breaks_apologises_and_goes_on(app: Listener, alice: Person) -> None:
    def breaks(incoming: Incoming) -> Reply | None:
        raise RuntimeError("a bug")

    app.answer = breaks
    await alice.say("one")
    await alice.wait_message(lambda m: True, WAIT_S)
    app.answer = lambda incoming: None
    await alice.say("two")
    await app.until(2)
