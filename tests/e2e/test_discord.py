"""Whole conversations on Discord: real bot, real worker process, real Valkey; Discord and the engine are stand-ins."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr

from bot import app, texts
from bot import replies as r
from bot.discord_chat import chat as discord_chat
from bot.domain import MAX_PHOTOS
from bot.templates import load_templates
from tests.conftest import ROOT
from tests.discord_limits import BUTTON, MAX_FILE, walk
from tests.e2e.conftest import selfie
from tests.e2e.town import LIMIT_S, PEOPLE, SOON_S, Place, Town, discord_words, place, town, until, words
from tests.fake_discord import Call, FakeDiscord, Message, Refused

__all__ = ["place"]


async def test_from_selfies_to_a_portrait(place: Place) -> None:
    async with town(place) as here:
        await here.train()
        templates = load_templates().templates
        suggested = await here.discord.suggest(here.me, "portrait", "template", templates[0].title["en"][:3])
        assert templates[0].template_id in [choice["value"] for choice in suggested]
        chinese = await here.discord.suggest(here.me, "portrait", "template", templates[0].title["zh"], "zh-CN")
        assert chinese[0]["name"] == templates[0].title["zh"]
        await here.use()
        portrait = await here.discord.has_button("original", LIMIT_S)
        assert len(portrait.pictures) == 1
        assert "AI-generated" in portrait.text
        await here.discord.press(here.me, portrait, portrait.buttons["original"])
        original = await here.discord.until(lambda m: "original file" in m.text)
        _, data = here.discord.files[original.attachments[0]["id"]]
        portraits = place.newest("portrait-*.jpg")
        assert data in [await here.blobs.get(key) for key in portraits]
        assert all(m.is_ephemeral for m in here.discord.messages.values())  # others of the server see nothing
        for key in portraits:
            await here.blobs.put(key, data + bytes(MAX_FILE))
        await here.discord.command(here.me, "results")
        results = await here.discord.until(lambda m: "Portrait 1 of 1" in m.text)
        assert len(results.pictures) == 1, "a smaller copy"
        await here.discord.press(here.me, results, results.buttons["original"])
        told = await here.discord.until(lambda m: texts.dialog("too_big_to_show", "en") in words(m))
        assert not told.attachments
        await here.discord.press(here.me, portrait, portrait.buttons["delete_portrait"])
        await here.discord.until(lambda m: m.text == "### The portrait is deleted.", LIMIT_S)


async def test_a_dialog_takes_twenty_photos_with_the_consent_and_more_come_by_the_button(place: Place) -> None:
    async with town(place) as here:
        asked = await here.discord.command(here.me, "train")
        dialog = await here.discord.dialog(asked)
        consent = next(part for part in dialog["components"] if part["type"] == 10)
        assert discord_words(r.AskConsent("x")).splitlines()[1] in consent["content"].replace("\\", "")
        await here.discord.submit(here.me, dialog, {"first": here.photos(10), "second": here.photos(2, 10)})
        collection = await here.discord.until(lambda m: "12 photos" in m.text and "start" in m.buttons, LIMIT_S)
        more = await here.discord.dialog(
            await here.discord.press(here.me, collection, collection.buttons["add_photos"])
        )
        assert not any(part["type"] == 10 for part in more["components"])  # agreed already
        files = [*here.photos(7, 12), here.discord.file("old.jpg", b"", status=404)]
        await here.discord.submit(here.me, more, {"first": files}, message=collection)
        await here.says(r.PhotoNotTaken("expired"))
        collection = await here.discord.until(lambda m: "19 photos" in m.text and "start" in m.buttons, LIMIT_S)
        await here.discord.press(here.me, collection, collection.buttons["cancel_collection"])
        await here.says(r.Cancelled("collection"))
        await here.nothing_is_thinking()


async def test_the_name_that_the_dialog_asks_for_is_the_models(place: Place) -> None:
    async with town(place) as here:
        dialog = await here.discord.dialog(await here.discord.command(here.me, "train"))
        await here.discord.submit(here.me, dialog, {"first": here.photos(6)}, {"name": "Anna"})
        await here.discord.push(here.me, "start", LIMIT_S)
        await here.discord.until(lambda m: "model is ready" in m.text, LIMIT_S)
        await here.discord.command(here.me, "models")
        await here.discord.until(lambda m: "Anna" in m.text)


async def test_photos_that_came_before_the_consent_are_fetched_only_after_it(place: Place) -> None:
    async with town(place) as here:
        await here.discord.command(here.me, "train", here.photos(MAX_PHOTOS))
        question = await here.discord.has_button("agree")
        assert len(here.discord.messages) == 1
        await here.discord.press(here.me, question, question.buttons["agree"])
        await here.discord.until(lambda m: f"{MAX_PHOTOS} photos" in m.text and "start" in m.buttons, LIMIT_S)


async def test_a_picture_of_ones_own_becomes_a_template_and_a_portrait(place: Place) -> None:
    async with town(place) as here:
        await here.discord.command(here.me, "portrait", [here.discord.file("me.jpg", selfie(3))])
        question = await here.discord.has_button("agree")
        await here.discord.press(here.me, question, question.buttons["agree"])
        checked = await here.discord.has_button("delete_template", LIMIT_S)
        assert checked.pictures
        await here.discord.command(here.me, "cancel")  # the collection that the consent opened
        await here.discord.command(here.me, "templates")
        gallery = await here.discord.has_button("own_template")
        await here.discord.press(here.me, gallery, gallery.buttons["own_template"])
        question = await here.discord.has_button("add_template")
        dialog = await here.discord.dialog(
            await here.discord.press(here.me, question, question.buttons["add_template"])
        )
        notes = here.discord.file("notes.txt", b"text", content_type="text/plain")
        await here.discord.submit(here.me, dialog, {"first": [notes]}, message=question)
        await here.says(r.OwnTemplateRefused("not_a_picture"))


async def test_the_gallery_is_paged_in_place(place: Place) -> None:
    async with town(place) as here:
        await here.discord.command(here.me, "templates")
        first = await here.discord.has_button("gallery")
        seen, title = set(), first.text
        for _ in range(2):
            forth = [button for button in _custom_ids(first) if ":gallery:" in button][1]
            await here.discord.press(here.me, first, forth)
            await here.discord.until(lambda m, before=title: m.id == first.id and m.text != before)  # type: ignore[misc]
            title = first.text
            seen.add(title)
        assert len(seen) == 2
        assert len(here.discord.messages) == 1


async def test_progress_outlives_the_token_and_moves_into_the_direct_messages(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town(place) as here:
        await here.train_until_start(steps=100)
        await here.discord.push(here.me, "start")
        early = await here.discord.until(lambda m: "Training your model" in m.text)
        assert early.is_ephemeral
        monkeypatch.setattr(discord_chat.Answering, "is_alive", property(lambda _: False))
        late = await here.discord.until(lambda m: "Training your model" in m.text and not m.is_ephemeral, LIMIT_S)
        await until(lambda: early.id in here.discord.deleted)  # it does not stay behind with a stale bar
        versions = late.versions
        ready = await here.discord.until(lambda m: "model is ready" in m.text, LIMIT_S)
        assert not ready.is_ephemeral
        assert late.versions > versions


async def test_a_restart_in_a_training_goes_on_in_the_direct_messages(place: Place) -> None:
    async with town(place) as here:
        await here.train_until_start(steps=2000)
        await here.discord.push(here.me, "start")
        await here.discord.until(lambda m: "Training your model" in m.text)
        old = await here.discord.has_button("cancel_job")
        assert await here.stop() < SOON_S
        await here.start()
        await here.discord.until(lambda m: "Training your model" in m.text and not m.is_ephemeral, LIMIT_S)
        await here.discord.press(here.me, old, old.buttons["cancel_job"])  # a button of before the restart
        await here.says(r.Cancelled("train"))


async def test_closed_direct_messages_are_asked_once_and_the_result_waits(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town(place) as here:
        await here.train()
        here.discord.closed_dms.add(here.me)
        await here.use_after_the_token(monkeypatch)
        await until(lambda: any(call.status == 403 for call in here.discord.calls), LIMIT_S)
        await asyncio.sleep(1.5)  # the outcome would be tried now
        assert sum(call.status == 403 for call in here.discord.calls) == 1
        monkeypatch.undo()
        await here.discord.command(here.me, "results")
        await here.discord.has_button("original", LIMIT_S)


async def test_buttons_of_others_of_old_versions_and_made_up_ones_are_refused_in_words(place: Place) -> None:
    async with town(place) as here:
        await here.discord.command(here.me, "train", here.photos(1), agree=True)
        collection = await here.discord.has_button("cancel_collection", LIMIT_S)
        button = collection.buttons["cancel_collection"]
        for user, custom_id, reply in (
            (next(PEOPLE), button, r.NotYours()),
            (here.me, f"0{button[1:]}", r.OutOfDate()),
            (here.me, "again:7:123", r.NotYours()),
            (here.me, "", r.NotYours()),
        ):
            pressed = await here.discord.press(user, collection, custom_id)
            answer = await asyncio.wait_for(pressed.answer, LIMIT_S)
            assert answer["data"]["content"] == texts.alert(reply, "en")
            assert answer["data"]["flags"] == 64
        await here.discord.submit(here.me, {"custom_id": "of old", "components": []}, {}, message=collection)
        await here.discord.until(lambda m: m.content == texts.alert(r.OutOfDate(), "en"))
        assert "cancel_collection" in collection.buttons


async def test_a_slow_core_is_acknowledged_in_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    handle, acknowledged = app.Bot.handle, asyncio.Event()

    async def slowly(self: app.Bot, incoming: Any) -> Any:
        await acknowledged.wait()
        return await handle(self, incoming)

    monkeypatch.setattr(app.Bot, "handle", slowly)
    async with town(place) as here:
        asked = await here.discord.command(here.me, "help")
        answer = await asyncio.wait_for(asked.answer, LIMIT_S)
        assert answer["type"] == 5
        acknowledged.set()
        await here.says(r.Help())
        await here.nothing_is_thinking()


async def test_who_speaks_chinese_is_answered_in_chinese_and_in_direct_messages_openly(place: Place) -> None:
    async with town(place) as here:
        asked = await here.discord.command(here.me, "train", locale="zh-CN", where="dm")
        dialog = await here.discord.dialog(asked)
        assert dialog["title"] == texts.dialog("photos_title", "zh")
        await here.discord.submit(here.me, dialog, {"first": here.photos(5)}, where="dm", locale="zh-CN")
        collection = await here.discord.until(lambda m: "5 张照片" in m.text and "start" in m.buttons, LIMIT_S)
        assert not collection.is_ephemeral
        await here.nothing_is_thinking()


async def test_forty_people_at_once_are_all_acknowledged_in_time_and_answered(place: Place) -> None:
    async with town(place) as here:
        people = [next(PEOPLE) for _ in range(40)]
        await asyncio.gather(*[here.discord.command(person, "help") for person in people])
        wanted = discord_words(r.Help())
        await until(lambda: sum(words(m) == wanted for m in here.discord.messages.values()) == len(people), LIMIT_S)
        assert not [call for call in _callbacks(here) if call.status >= 400]  # a late one would be refused with 404


async def test_what_is_delivered_twice_is_heard_once(place: Place) -> None:
    async with town(place) as here:
        await here.discord.command(here.me, "help")
        await here.says(r.Help())
        await here.discord.deliver_again()
        await until(lambda: any(call.status in (400, 404) for call in _callbacks(here)))  # acknowledged already
        await here.discord.command(here.me, "cancel")
        await here.says(r.NothingToCancel())
        assert sum(words(m) == discord_words(r.Help()) for m in here.discord.messages.values()) == 1


async def test_what_a_killed_bot_left_thinking_gets_a_sentence(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: app.Bot, incoming: Any) -> Any:
        await asyncio.sleep(60)

    async with town(place) as here:
        monkeypatch.setattr(app.Bot, "handle", never)
        await here.discord.command(here.me, "help")
        await here.discord.until(lambda m: m.is_thinking)
        assert await here.stop() < SOON_S
        monkeypatch.undo()
        await here.start()
        await here.discord.until(lambda m: m.content == texts.dialog("restarted", "en"))
        await here.nothing_is_thinking()


async def test_what_breaks_is_apologised_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: app.Bot, incoming: Any) -> Any:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(app.Bot, "handle", broken)
    async with town(place) as here:
        await here.discord.command(here.me, "help")
        await here.discord.until(lambda m: m.content.startswith("Sorry, something broke on my side"))
        await here.nothing_is_thinking()


async def test_what_discord_refuses_for_now_is_said_later(place: Place) -> None:
    async with town(place) as here:
        slow_down = Refused(429, 0, "You are being rate limited.", retry_after=0.4, **{"global": False})
        here.discord.fail = [("PATCH /webhooks", slow_down)]
        asked = await here.discord.command(here.me, "help")
        await here.says(r.Help())
        said = [call.status for call in here.discord.calls if f"{asked.token}/messages/@original" in call.path]
        assert said == [429, 200]


async def test_a_message_that_is_gone_or_too_old_to_edit_is_said_anew(place: Place) -> None:
    async with town(place) as here:
        here.discord.message_age_s = 4000
        await here.discord.command(here.me, "templates", where="dm")
        gallery = await here.discord.has_button("gallery")
        why = "Maximum number of edits to messages older than 1 hour reached. Try again later."
        for refused in (Refused(404, 10008, "Unknown Message"), Refused(429, 30046, why, retry_after=60)):
            here.discord.fail = [("PATCH /channels", refused)]
            old, forth = gallery.id, [button for button in _custom_ids(gallery) if ":gallery:" in button][1]
            await here.discord.press(here.me, gallery, forth)
            gallery = await here.discord.until(partial(_is_other_gallery, old))
            await until(partial(_is_gone, here.discord, old))


async def test_the_gateway_may_drop_and_nothing_is_lost(place: Place) -> None:
    async with town(place) as here:
        await here.discord.drop_gateway()
        await here.discord.command(here.me, "help")
        await here.says(r.Help())
        assert len(here.discord.resumed) == 1


async def test_commands_are_offered_everywhere_in_both_languages_without_any_intent(place: Place) -> None:
    async with FakeDiscord() as discord:
        discord.shards = 2
        here = Town(place, discord)
        await here.start()
        await until(lambda: len(discord.identified) == 2)
        assert [one["shard"] for one in discord.identified] == [[0, 2], [1, 2]]
        assert all(one["intents"] == 0 for one in discord.identified)
        offered = [command for command in discord.commands if command["name"] != "settings"]
        for command in offered:
            assert command["integration_types"] == [0, 1]
            assert command["contexts"] == [0, 1, 2]
            assert command["name_localizations"]["zh-CN"] != command["name"]
            assert command["description_localizations"]["zh-CN"] != command["description"]
        train = next(command for command in discord.commands if command["name"] == "train")
        assert [option["type"] for option in train["options"]] == [11] * MAX_PHOTOS + [5]
        assert not any(option.get("required") for option in train["options"])
        assert await here.stop() < SOON_S


async def test_a_refused_token_and_a_discord_that_is_away_are_told_apart(place: Place) -> None:
    async with FakeDiscord() as discord:
        settings = place.settings(discord)
        with pytest.raises(app.StartFailure, match="refuses PORTRAIT_DISCORD_TOKEN"):
            await app.run(settings.model_copy(update={"discord_token": SecretStr("other")}), asyncio.Event())
        stop = asyncio.Event()
        nowhere = settings.model_copy(update={"discord_api_url": "http://127.0.0.1:9/api"})
        running = asyncio.create_task(app.run(nowhere, stop))
        await asyncio.sleep(1.5)
        assert not running.done()
        began = time.monotonic()
        stop.set()
        await running
        assert time.monotonic() - began < SOON_S


async def test_forget_deletes_the_messages_too(place: Place) -> None:
    async with town(place) as here:
        await here.discord.command(here.me, "privacy", where="dm")
        privacy = await here.discord.has_button("forget")
        await here.discord.press(here.me, privacy, privacy.buttons["forget"])
        question = await here.discord.has_button("forget_yes")
        await here.discord.press(here.me, question, question.buttons["forget_yes"])
        await here.discord.push(here.me, "forget_sure")
        await here.discord.until(lambda m: "Everything is deleted." in m.text)
        await until(lambda: privacy.id not in here.discord.messages)


async def test_the_bot_as_a_process_ends_fast_when_asked(place: Place) -> None:
    async with FakeDiscord() as discord:
        environment = place.environment(
            discord_token=discord.token, discord_api_url=discord.api_url, data_dir=str(place.folder)
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bot", cwd=ROOT, env=environment)
        await until(lambda: bool(discord.identified))
        began = time.monotonic()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
        assert time.monotonic() - began < SOON_S


def _callbacks(here: Town) -> list[Call]:
    """Acknowledgements; the bot also says good-bye to what an earlier test's bot left behind."""
    return [call for call in here.discord.calls if call.path.endswith("/callback")]


def _custom_ids(message: Message) -> list[str]:
    return [one["custom_id"] for one in walk(message.components) if one["type"] == BUTTON]


def _is_other_gallery(old: str, message: Message) -> bool:
    return message.id != old and "gallery" in message.buttons


def _is_gone(discord: FakeDiscord, message_id: str) -> bool:
    return message_id not in discord.messages
