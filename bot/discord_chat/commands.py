"""Slash commands. Everything that can be asked for stands in this file, in the order of the menu."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import discord
from discord import app_commands

from bot import texts
from bot.dialogue import Asked
from bot.discord_chat.dialogs import open_dialog, photos_dialog
from bot.discord_chat.guild_settings import settings_command
from bot.discord_chat.talk import OWN_TEMPLATE, Talk, asked_train, language_of
from bot.domain import MAX_PHOTOS, Template

MAX_SUGGESTIONS = 25
PLAIN = ("templates", "results", "models", "queue", "cancel", "privacy", "forget", "help")
# What the commands are called for people whose Discord speaks Chinese.
CHINESE_NAMES = {
    "train": "训练",
    "portrait": "写真",
    "templates": "模板",
    "models": "模型",
    "results": "作品",
    "queue": "队列",
    "cancel": "取消",
    "privacy": "隐私",
    "forget": "忘记我",
    "help": "帮助",
    "settings": "服务器设置",
    "admin": "运营",
}
AnyInteraction = discord.Interaction[Any]
AnyCommand = app_commands.Command[Any, Any, Any]


class Words(app_commands.Translator):
    """Names and descriptions of commands in Chinese; a Chinese word travels with its English one."""

    async def translate(
        self, string: app_commands.locale_str, locale: discord.Locale, context: app_commands.TranslationContextTypes
    ) -> str | None:
        chinese: str | None = string.extras.get("zh")
        return chinese if locale.value.startswith("zh") else None


def add_commands(tree: app_commands.CommandTree[Any], talk: Talk, templates: tuple[Template, ...]) -> None:
    tree.add_command(_command("train", _train(talk)))
    tree.add_command(_command("portrait", _portrait(talk, templates)))
    for name in PLAIN:
        tree.add_command(_command(name, _plain(talk, name)))
    tree.add_command(settings_command(talk, CHINESE_NAMES["settings"]))
    tree.add_command(_admin(talk))


def _command(name: str, callback: Callable[..., Awaitable[None]]) -> AnyCommand:
    english, chinese = texts.commands("en")[name], texts.commands("zh")[name]
    command: AnyCommand = app_commands.Command(
        name=app_commands.locale_str(name, zh=CHINESE_NAMES[name]),
        description=app_commands.locale_str(english, zh=chinese),
        callback=callback,  # type: ignore[arg-type]
        allowed_contexts=app_commands.AppCommandContext(guild=True, dm_channel=True, private_channel=True),
        allowed_installs=app_commands.AppInstallationType(guild=True, user=True),
    )
    return command


def _admin(talk: Talk) -> AnyCommand:
    """For the operator's people alone; Discord hides it from everybody who does not run a server."""

    @app_commands.describe(what=_described("admin_option"))
    async def admin(interaction: discord.Interaction[Any], what: str = "") -> None:
        await talk.guarded(interaction, talk.ask(interaction, Asked("admin", what)))

    command: AnyCommand = app_commands.Command(
        name=app_commands.locale_str("admin", zh=CHINESE_NAMES["admin"]),
        description=_described("admin_command"),
        callback=admin,
        allowed_contexts=app_commands.AppCommandContext(guild=True, dm_channel=True, private_channel=True),
        allowed_installs=app_commands.AppInstallationType(guild=True, user=True),
    )
    command.default_permissions = discord.Permissions(administrator=True)
    return command


def _plain(talk: Talk, name: str) -> Callable[..., Awaitable[None]]:
    async def plain(interaction: AnyInteraction) -> None:
        await talk.guarded(interaction, talk.ask(interaction, Asked(name)))

    return plain


def _train(talk: Talk) -> Callable[..., Awaitable[None]]:
    """`/train photo1 … photo20`; without photos, a dialog that takes them."""

    async def train(interaction: AnyInteraction, **options: Any) -> None:
        agrees = bool(options.pop("agree", False))
        attachments = [attachment for attachment in options.values() if attachment is not None]
        if attachments:
            await talk.guarded(interaction, talk.ask(interaction, asked_train(agrees), attachments))
        else:
            await open_dialog(interaction, photos_dialog(language_of(interaction), asks_consent=True))

    # The library reads a command's options off the signature; twenty like ones are made, not written.
    keyword = inspect.Parameter.KEYWORD_ONLY
    photos = [
        inspect.Parameter(f"photo{n}", keyword, default=None, annotation=discord.Attachment)
        for n in range(1, MAX_PHOTOS + 1)
    ]
    agree = inspect.Parameter("agree", keyword, default=False, annotation=bool)
    first = inspect.Parameter("interaction", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=AnyInteraction)
    train.__signature__ = inspect.Signature([first, *photos, agree])  # type: ignore[attr-defined]
    described = {f"photo{n}": _described("option_photo", n) for n in range(1, MAX_PHOTOS + 1)}
    return app_commands.describe(agree=_described("option_agree"), **described)(train)


def _portrait(talk: Talk, templates: tuple[Template, ...]) -> Callable[..., Awaitable[None]]:
    async def suggest(interaction: AnyInteraction, typed: str) -> list[app_commands.Choice[str]]:
        """From memory: Discord gives three seconds for this too."""
        language = language_of(interaction)
        wanted = typed.strip().casefold()
        found = [template for template in templates if any(wanted in word for word in _words_of(template))]
        found.sort(key=lambda template: wanted not in template.title[language].casefold())
        return [app_commands.Choice(name=t.title[language], value=t.template_id) for t in found[:MAX_SUGGESTIONS]]

    @app_commands.describe(template=_described("option_template"), picture=_described("option_picture"))
    @app_commands.autocomplete(template=suggest)
    async def portrait(
        interaction: discord.Interaction[Any],
        template: str = "",
        picture: discord.Attachment | None = None,
    ) -> None:
        if picture is None:
            await talk.guarded(interaction, talk.ask(interaction, Asked("portrait", template)))
        else:
            await talk.guarded(interaction, talk.ask(interaction, OWN_TEMPLATE, [picture]))

    return portrait


def _described(key: str, n: int = 0) -> app_commands.locale_str:
    return app_commands.locale_str(texts.dialog(key, "en", n), zh=texts.dialog(key, "zh", n))


def _words_of(template: Template) -> list[str]:
    """What a template can be found by: its titles and its category, in every language."""
    shelves = (texts.category(template.category, "en"), texts.category(template.category, "zh"))
    return [word.casefold() for word in (*template.title.values(), *shelves)]
