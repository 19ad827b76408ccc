"""Discord's limits hold in whole conversations, and what it takes away is borne."""

from __future__ import annotations

import asyncio

import pytest

from bot import replies as r
from bot import texts
from tests.discord_limits import MAX_FILE, MAX_REQUEST
from tests.e2e.conftest import selfie
from tests.e2e.town import LIMIT_S, Place, place, town, until
from tests.fake_discord import Refused

__all__ = ["place"]


async def test_more_than_a_request_may_carry_is_shown_smaller(place: Place) -> None:
    async with town(place, portraits_per_job=4) as here:
        await here.train()
        await here.use()
        ready = await here.discord.has_button("others", LIMIT_S)
        heavy = selfie(1) + bytes(MAX_FILE - 100_000)
        assert 3 * len(heavy) > MAX_REQUEST
        for key in place.newest("portrait-*.jpg")[-4:]:
            await here.blobs.put(key, heavy)
        await here.discord.press(here.me, ready, ready.buttons["others"])
        others = await here.discord.until(lambda m: "other candidates" in m.text, LIMIT_S)
        assert len(others.pictures) == 3, "all of them, as smaller copies"
        assert not [call for call in here.discord.calls if call.status == 413]


async def test_a_channel_that_is_gone_is_asked_once_and_the_result_waits(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town(place) as here:
        await here.train()
        gone = Refused(404, 10003, "Unknown Channel")
        here.discord.fail = [("POST /channels/", gone)] * 5
        await here.use_after_the_token(monkeypatch)
        await until(lambda: len(here.discord.fail) < 5, LIMIT_S)
        await asyncio.sleep(2)  # the outcome would be tried now
        assert len(here.discord.fail) == 4
        here.discord.fail = []
        monkeypatch.undo()
        await here.discord.command(here.me, "results")
        await here.discord.has_button("original", LIMIT_S)


async def test_buttons_of_what_is_gone_are_refused(place: Place) -> None:
    async with town(place) as here:
        await here.train()
        await here.use()
        ready = await here.discord.has_button("again", LIMIT_S)
        buttons = dict(ready.buttons)
        await here.discord.press(here.me, ready, buttons["delete_portrait"])
        await here.discord.until(lambda m: "The portrait is deleted" in m.text, LIMIT_S)
        for action in ("favourite", "original", "more", "delete_portrait", "report"):
            before = set(here.discord.messages)  # one of them may go meanwhile: the card of the portrait
            await here.discord.press(here.me, ready, buttons[action])
            await until(lambda before=before: here.discord.messages.keys() - before)  # type: ignore[misc]
            (new,) = here.discord.messages.keys() - before
            assert here.discord.messages[new].content == texts.alert(r.OutOfDate(), "en"), action
