"""The Discord frontend: interactions -> what a person said; replies -> Discord messages."""

from bot.discord_chat.client import DiscordTokenRefused, run_discord

__all__ = ["DiscordTokenRefused", "run_discord"]
