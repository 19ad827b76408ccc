"""The Discord frontend's life: log in, offer the commands, answer until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Protocol

import aiohttp
import discord
from discord import app_commands
from discord.ext import commands
from discord.http import Route

from bot.callback import secret_of
from bot.core import App
from bot.discord_chat.chat import PLATFORM, DiscordChat
from bot.discord_chat.commands import Words, add_commands
from bot.discord_chat.talk import Talk
from bot.settings import Settings
from bot.templates import load_templates

log = logging.getLogger(__name__)

MAX_PAUSE_S = 30.0  # between tries to reach Discord
LONGEST_WAIT_S = 30.0  # for a rate limit; what takes longer is the caller's to plan
DRAIN_S = 1.0  # for what is being handled when we stop
CLOSE_S = 1.0  # for Discord to say goodbye
AUTHENTICATION_FAILED = 4004  # of the gateway: the token was reset while we ran


class DiscordApp(App, Protocol):
    settings: Settings


class DiscordTokenRefused(Exception):
    """Discord does not know the token."""


class Tree(app_commands.CommandTree["Client"]):
    async def on_error(self, interaction: discord.Interaction[Any], error: app_commands.AppCommandError, /) -> None:
        await interaction.client.talk.apologise(interaction, error)


class Client(commands.AutoShardedBot):
    """No intent at all: no message is ever read, everything comes as an interaction."""

    def __init__(self, app: DiscordApp, secret: bytes) -> None:
        super().__init__(
            command_prefix=commands.when_mentioned,
            intents=discord.Intents.none(),
            help_command=None,
            tree_cls=Tree,
            allowed_mentions=discord.AllowedMentions.none(),
            max_ratelimit_timeout=LONGEST_WAIT_S,
        )
        self.app = app
        self.chat = DiscordChat(self, app, secret)
        self.talk = Talk(app, self.chat, secret, app.settings.max_file_bytes)

    async def setup_hook(self) -> None:
        add_commands(self.tree, self.talk, load_templates().templates)
        await self.tree.set_translator(Words())
        try:
            await self.tree.sync()
        except discord.HTTPException as error:
            log.warning("the commands could not be brought up to date: %s", error)
        self.app.register(PLATFORM, self.chat)
        await self.talk.tidy_up(self)
        log.info("Discord is on")

    async def on_interaction(self, interaction: discord.Interaction[Any]) -> None:
        """Buttons and dialogs of this process and of earlier ones; commands come through the tree."""
        if interaction.type is discord.InteractionType.component:
            await self.talk.guarded(interaction, self.talk.press(interaction))
        elif interaction.type is discord.InteractionType.modal_submit:
            await self.talk.guarded(interaction, self.talk.submit(interaction))

    async def end(self) -> None:
        """Gives what is being handled a moment, then leaves, within some two seconds."""
        if self.talk.tasks:
            await asyncio.wait(self.talk.tasks, timeout=DRAIN_S)
        for task in self.talk.tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.close()


async def run_discord(app: DiscordApp, stop: asyncio.Event) -> None:
    """Talks to Discord until `stop` is set. Raises DiscordTokenRefused."""
    token = app.settings.discord_token
    assert token is not None, "the frontend runs only where a token is set"
    Route.BASE = f"{app.settings.discord_api_url.rstrip('/')}/v10"  # the library has no other way to say it
    discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False  # there is no voice to be missed
    pause_s = 1.0
    while not stop.is_set():
        client = Client(app, secret_of(token.get_secret_value()))
        try:
            await _run(client, token.get_secret_value(), stop)
        except (discord.DiscordException, aiohttp.ClientError, OSError, TimeoutError) as error:
            if isinstance(error, discord.LoginFailure) or getattr(error, "code", None) == AUTHENTICATION_FAILED:
                why = "Discord refuses PORTRAIT_DISCORD_TOKEN: reset it in the developer portal"
                raise DiscordTokenRefused(why) from error
            log.warning("Discord cannot be reached, trying again in %.0f s: %s", pause_s, error)
        except Exception:  # the border of the library: it ends at what it cannot read
            log.exception("the connection to Discord broke, trying again in %.0f s", pause_s)
        finally:
            await client.end()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s)
        pause_s = min(pause_s * 2, MAX_PAUSE_S)


async def _run(client: Client, token: str, stop: asyncio.Event) -> None:
    running = asyncio.create_task(client.start(token))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        stopping.cancel()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
