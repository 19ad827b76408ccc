"""`/settings`: who manages a server says who may use the bot there, where, how often, and how results look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import discord
from discord import app_commands

from bot import texts
from bot.discord_chat.talk import Talk, acknowledged, language_of, place_of
from bot.domain import Language
from bot.guilds import GuildRules

NO_LIMIT = -1
MOST = 10_000
MAX_LISTED = 25  # roles, and channels
OPTIONS = ("role", "channel", "trainings_per_day", "portraits_per_day", "spoiler")

Limit = app_commands.Range[int, NO_LIMIT, MOST]
AnyInteraction = discord.Interaction[Any]


def settings_command(talk: Talk, chinese_name: str) -> app_commands.Command[Any, Any, Any]:
    described = {name: _both(f"settings_option_{name}") for name in OPTIONS}
    command: app_commands.Command[Any, Any, Any] = app_commands.Command(
        name=app_commands.locale_str("settings", zh=chinese_name),
        description=_both("settings_command"),
        callback=app_commands.describe(**described)(_callback(talk)),  # type: ignore[arg-type]
        allowed_contexts=app_commands.AppCommandContext(guild=True, dm_channel=False, private_channel=False),
        allowed_installs=app_commands.AppInstallationType(guild=True, user=False),
    )
    command.default_permissions = discord.Permissions(manage_guild=True)
    return command


def _callback(talk: Talk) -> Callable[..., Awaitable[None]]:
    async def settings(
        interaction: discord.Interaction[Any],
        role: discord.Role | None = None,
        channel: app_commands.AppCommandChannel | None = None,
        trainings_per_day: Limit | None = None,
        portraits_per_day: Limit | None = None,
        spoiler: bool | None = None,
    ) -> None:
        """A role or channel that is listed is taken off the list, another one is added."""

        def change(rules: GuildRules) -> GuildRules:
            return GuildRules(
                _toggled(rules.roles, role),
                _toggled(rules.channels, channel),
                _limit(rules.trainings_per_day, trainings_per_day),
                _limit(rules.portraits_per_day, portraits_per_day),
                rules.is_spoiler if spoiler is None else spoiler,
            )

        await talk.guarded(interaction, _settle(talk, interaction, change))

    return settings


async def _settle(talk: Talk, interaction: AnyInteraction, change: Callable[[GuildRules], GuildRules]) -> None:
    if not await acknowledged(interaction.response.defer(ephemeral=True, thinking=True)):
        return
    language, place = language_of(interaction), place_of(interaction)
    rules = await talk.app.settle_guild(place, change) if place else None
    words = texts.dialog("settings_refused", language) if rules is None else in_words(rules, language)
    await acknowledged(interaction.edit_original_response(content=words))


def in_words(rules: GuildRules, language: Language) -> str:
    def say(key: str) -> str:
        return texts.dialog(f"settings_{key}", language)

    def limit(most: int | None) -> str:
        return say("no_limit") if most is None else str(most)

    roles = " ".join(f"<@&{role}>" for role in rules.roles) or say("everybody")
    channels = " ".join(f"<#{channel}>" for channel in rules.channels) or say("everywhere")
    return "\n".join(
        (
            f"**{say('title')}**",
            f"{say('roles')} {roles}",
            f"{say('channels')} {channels}",
            f"{say('trainings')} {limit(rules.trainings_per_day)}",
            f"{say('portraits')} {limit(rules.portraits_per_day)}",
            say("spoiler_on" if rules.is_spoiler else "spoiler_off"),
        )
    )


def _toggled(listed: tuple[str, ...], one: discord.abc.Snowflake | None) -> tuple[str, ...]:
    if one is None:
        return listed
    name = str(one.id)
    return tuple(each for each in listed if each != name) if name in listed else (*listed, name)[-MAX_LISTED:]


def _limit(before: int | None, wanted: int | None) -> int | None:
    if wanted is None:
        return before
    return None if wanted == NO_LIMIT else wanted


def _both(key: str) -> app_commands.locale_str:
    return app_commands.locale_str(texts.dialog(key, "en"), zh=texts.dialog(key, "zh"))
