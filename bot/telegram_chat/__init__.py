"""The Telegram frontend: Telegram's updates -> what a person said; replies -> Telegram messages."""

from bot.telegram_chat.application import TelegramTokenRefused, run_telegram

__all__ = ["TelegramTokenRefused", "run_telegram"]
