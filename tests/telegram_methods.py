"""Makes tests/data/telegram_methods.json: what Telegram publishes of the methods that we call, as aiogram lists them.

aiogram (MIT) is generated from https://core.telegram.org/bots/api. It is no dependency of ours, because it does not go
with our pydantic; unpack its wheel (and magic_filter's) into a folder:

    PYTHONPATH=FOLDER:. python -m tests.telegram_methods
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("data") / "telegram_methods.json"
METHODS = (
    "answerCallbackQuery",
    "deleteMessage",
    "deleteWebhook",
    "editMessageCaption",
    "editMessageMedia",
    "editMessageText",
    "getFile",
    "getMe",
    "getUpdates",
    "sendChatAction",
    "sendDocument",
    "sendMediaGroup",
    "sendMessage",
    "sendPhoto",
    "setMyCommands",
)
TYPES = ("BotCommand", "InlineKeyboardButton", "InlineKeyboardMarkup", "InputMediaPhoto", "LinkPreviewOptions")


def main() -> None:
    aiogram: Any = importlib.import_module("aiogram")
    methods, types = importlib.import_module("aiogram.methods"), importlib.import_module("aiogram.types")
    told = {
        "source": f"Bot API {aiogram.__api_version__}, as listed by aiogram {aiogram.__version__} (MIT)",
        "methods": {name: _fields(getattr(methods, name[0].upper() + name[1:])) for name in METHODS},
        "types": {name: _fields(getattr(types, name)) for name in TYPES},
    }
    DATA.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def _fields(model: Any) -> dict[str, list[str]]:
    required = sorted(name for name, field in model.model_fields.items() if field.is_required())
    return {"required": required, "optional": sorted(set(model.model_fields) - set(required))}


if __name__ == "__main__":
    main()
