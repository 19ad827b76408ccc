"""A Discord server's own rules, and /admin, over the wire."""

from __future__ import annotations

from bot import replies as r
from bot import texts
from tests.discord_limits import GALLERY, walk
from tests.e2e.town import LIMIT_S, Place, Town, discord_words, place, town, words
from tests.fake_discord import CHANNEL, FakeDiscord

__all__ = ["place"]

MANAGE = 1 << 5
ROLE, OTHER_CHANNEL = "930000000000000001", "920000000000000009"


async def settle(here: Town, **options: object) -> str:
    """What /settings says to somebody who may manage the server."""
    title = texts.dialog("settings_title", "en")
    before = {id_ for id_, message in here.discord.messages.items() if title in message.text}
    await here.discord.command(here.me, "settings", permissions=MANAGE, **options)
    message = await here.discord.until(lambda m: title in m.text and m.id not in before, LIMIT_S)
    return message.text


async def test_a_server_settles_who_where_how_often_and_how(place: Place) -> None:
    async with town(place) as here:
        said = await settle(here, role=ROLE, channel=OTHER_CHANNEL, trainings_per_day=3, spoiler=True)
        assert f"<@&{ROLE}>" in said
        assert f"<#{OTHER_CHANNEL}>" in said
        assert "Trainings a day, all members together: 3" in said
        assert texts.dialog("settings_spoiler_on", "en") in said
        await here.discord.command(here.me, "templates", roles=[ROLE])
        await here.says(r.Refused("channel"))
        await settle(here, channel=OTHER_CHANNEL)
        await here.discord.command(here.me, "templates")
        await here.says(r.Refused("role"))
        await here.discord.command(here.me, "templates", roles=[ROLE])
        await here.discord.has_button("train", LIMIT_S)
        await here.discord.command(here.me, "templates", where="dm")
        answer = await here.discord.until(lambda m: m.channel != CHANNEL and bool(words(m)), LIMIT_S)
        assert words(answer) != discord_words(r.Refused("role"))
        said = await settle(here, role=ROLE, trainings_per_day=-1, spoiler=False)
        assert texts.dialog("settings_everybody", "en") in said
        assert "all members together: no limit" in said


async def test_results_hide_behind_a_click_where_the_server_wants_it(place: Place) -> None:
    async with town(place) as here:
        await settle(here, spoiler=True)
        await here.train()
        await here.use()
        portrait = await here.discord.has_button("original", LIMIT_S)
        galleries = [one for one in walk(portrait.components) if one["type"] == GALLERY]
        assert [item["spoiler"] for gallery in galleries for item in gallery["items"]] == [True]
        await settle(here, spoiler=False)


async def test_only_who_manages_a_server_settles_it(place: Place) -> None:
    async with town(place) as here:
        await here.discord.command(here.me, "settings", spoiler=True)
        refused = texts.dialog("settings_refused", "en")
        await here.discord.until(lambda m: m.text == refused, LIMIT_S)


async def test_settings_and_admin_are_offered_to_those_alone_whom_they_concern(place: Place) -> None:
    async with town(place) as here:
        offered = {command["name"]: command for command in here.discord.commands}
        assert offered["settings"]["contexts"] == [0], "in servers only"
        assert offered["settings"]["default_member_permissions"] == MANAGE
        assert offered["admin"]["default_member_permissions"] == 1 << 3


async def test_an_admin_is_one_on_discord_too(place: Place) -> None:
    async with FakeDiscord() as discord:
        here = Town(place, discord)
        await here.start(admins=f"discord:{here.me}")
        await discord.command(here.me, "admin", what="drain on", where="dm")
        await here.says(r.AdminSays("drain_on"))
        await discord.command(here.me, "admin", what="drain off", where="dm")
        await here.says(r.AdminSays("drain_off"))
        await discord.command("970000000000099999", "admin", what="stats", where="dm")
        await here.says(r.NotUnderstood())
        await here.stop()
