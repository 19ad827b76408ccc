"""The bot's side: methods of the Telegram Bot API with its limits, its effects and its error sentences.

What is not here answers 404, as Telegram does with a method it does not know. Sentences and codes follow tdlib's
telegram-bot-api (Client.cpp); limits follow https://core.telegram.org/bots/api.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bot.sandbox.calls import ApiError, Call, Upload, bad_request, keyboard, message_caption, message_text
from bot.sandbox.pictures import NotAPhoto, Size, photo_sizes, thumbnail
from bot.sandbox.world import ChatState, Json, World

log = logging.getLogger(__name__)

MAX_DOWNLOAD_BYTES = 20 << 20
MAX_DOCUMENT_BYTES = 50 << 20
MAX_POLL_S = 50
MAX_AGE_TO_DELETE_S = 48 * 3600
# Telegram publishes "about one message per second per chat, short bursts go"; a bucket is how that behaves.
BURST, PER_SECOND = 20, 1.0


class BotApi:
    """`answer` does one call. `is_polite_only`: chats that get too many messages answer 429, as in Telegram."""

    def __init__(self, world: World, *, is_polite_only: bool = True) -> None:
        self._world = world
        self._is_polite_only = is_polite_only
        self._buckets: dict[int, tuple[float, float]] = {}  # chat -> (tokens, when)
        self._poll = 0  # the newest getUpdates; an older one that still waits is told to go away
        self._methods: dict[str, Callable[[Call], Awaitable[Any]]] = {
            "getme": self._get_me,
            "getupdates": self._get_updates,
            "deletewebhook": self._true,
            "getwebhookinfo": self._webhook_info,
            "logout": self._true,
            "close": self._true,
            "setmycommands": self._set_commands,
            "getmycommands": self._get_commands,
            "deletemycommands": self._delete_commands,
            "getfile": self._get_file,
            "getchat": self._get_chat,
            "sendchataction": self._send_action,
            "setmessagereaction": self._set_reaction,
            "answercallbackquery": self._answer_query,
            "sendmessage": self._send_message,
            "sendphoto": self._send_photo,
            "senddocument": self._send_document,
            "sendmediagroup": self._send_album,
            "editmessagetext": self._edit_text,
            "editmessagecaption": self._edit_caption,
            "editmessagemedia": self._edit_media,
            "editmessagereplymarkup": self._edit_keyboard,
            "deletemessage": self._delete,
            "deletemessages": self._delete_many,
        }

    async def answer(self, call: Call) -> Any:
        """The call's result. Raises ApiError."""
        name = call.method.lower()
        if name not in self._methods:
            raise ApiError(404, "Not Found")
        if name != "getupdates":
            self._world.calls.append({"at": time.time(), "method": call.method, "params": call.params})
        if fault := self._world.fault_of(call.method):
            raise ApiError(fault.error_code, fault.description, fault.retry_after)
        try:
            return await self._methods[name](call)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            log.info("%s: parameters of no known shape", call.method, exc_info=True)
            raise bad_request("can't parse the parameters") from error

    # -- the bot itself

    async def _true(self, call: Call) -> bool:
        return True

    async def _get_me(self, call: Call) -> Json:
        return self._world.bot

    async def _webhook_info(self, call: Call) -> Json:
        return {"url": "", "has_custom_certificate": False, "pending_update_count": len(self._world.memory.updates)}

    async def _get_updates(self, call: Call) -> list[Json]:
        world = self._world
        if (allowed := call.decoded("allowed_updates")) is not None:
            world.memory.allowed_updates = allowed or list(world.memory.allowed_updates)
        if offset := call.integer("offset", 0):
            world.confirm_updates(offset)
        self._poll += 1
        mine = self._poll
        async with world.changed:
            world.changed.notify_all()  # wakes an older poll, which then sees that it is no longer the newest
            try:
                async with asyncio.timeout(min(call.integer("timeout", 0), MAX_POLL_S)):
                    await world.changed.wait_for(lambda: world.memory.updates or self._poll != mine)
            except TimeoutError:
                pass
        if self._poll != mine:
            raise ApiError(
                409,
                "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running",
            )
        return world.memory.updates[: min(max(call.integer("limit", 100), 1), 100)]

    async def _set_commands(self, call: Call) -> bool:
        commands = call.decoded("commands") or []
        if len(commands) > 100:
            raise bad_request("too many commands specified")
        for command in commands:
            if not command["command"].replace("_", "").isalnum() or not 1 <= len(command["command"]) <= 32:
                raise bad_request("BOT_COMMAND_INVALID")
            if not 1 <= len(command["description"]) <= 256:
                raise bad_request("BOT_COMMAND_DESCRIPTION_INVALID")
        self._world.memory.commands[call.text("language_code")] = commands
        await self._world.announce(0, "commands")
        return True

    async def _get_commands(self, call: Call) -> list[Json]:
        return self._world.memory.commands.get(call.text("language_code"), [])

    async def _delete_commands(self, call: Call) -> bool:
        self._world.memory.commands.pop(call.text("language_code"), None)
        return True

    async def _get_file(self, call: Call) -> Json:
        file_id = call.text("file_id")
        file = self._world.memory.files.get(file_id)
        if file is None:
            raise bad_request("invalid file_id")
        if file["size"] > MAX_DOWNLOAD_BYTES:
            raise bad_request("file is too big")
        return {
            "file_id": file_id,
            "file_unique_id": f"u{file_id}",
            "file_size": file["size"],
            "file_path": file["path"],
        }

    # -- messages

    async def _get_chat(self, call: Call) -> Json:
        return self._chat(call).info

    async def _send_message(self, call: Call) -> Json:
        chat = self._chat(call, cost=1)
        return await self._post(chat, {**message_text(call), **self._options(call), **keyboard(call)})

    async def _send_photo(self, call: Call) -> Json:
        chat = self._chat(call, cost=1)
        content = {**message_caption(call.params), **self._options(call), **keyboard(call)}
        if call.is_true("has_spoiler"):
            content["has_media_spoiler"] = True
        return await self._post(chat, {"photo": await self._photo(call, call.params.get("photo"), "photo"), **content})

    async def _send_document(self, call: Call) -> Json:
        chat = self._chat(call, cost=1)
        content = {**message_caption(call.params), **self._options(call), **keyboard(call)}
        document = await self._document(call, call.params.get("document"), "document")
        return await self._post(chat, {"document": document, **content})

    async def _send_album(self, call: Call) -> list[Json]:
        items = call.decoded("media") or []
        chat = self._chat(call, cost=len(items))
        if not 2 <= len(items) <= 10:
            raise bad_request("wrong number of media in the album (2-10 are allowed)")
        if len({item["type"] for item in items}) > 1:
            raise bad_request("photos and documents can't be mixed in an album")
        # All media are read before the first message is posted: an album arrives whole or not at all.
        contents = [{**await self._media(call, item), **self._options(call)} for item in items]
        album = str(self._world.next_id())
        return [await self._post(chat, {"media_group_id": album, **content}) for content in contents]

    async def _edit_text(self, call: Call) -> Json:
        chat, old = self._own_message(call)
        if "text" not in old:
            raise bad_request("there is no text in the message to edit")
        return await self._change(chat, old, {**message_text(call), **keyboard(call)})

    async def _edit_caption(self, call: Call) -> Json:
        chat, old = self._own_message(call)
        if "text" in old:
            raise bad_request("there is no caption in the message to edit")
        kept: Json = {k: v for k, v in old.items() if k in ("photo", "document", "has_media_spoiler")}
        return await self._change(chat, old, {**kept, **message_caption(call.params), **keyboard(call)})

    async def _edit_media(self, call: Call) -> Json:
        chat, old = self._own_message(call)
        return await self._change(chat, old, {**await self._media(call, call.decoded("media")), **keyboard(call)})

    async def _edit_keyboard(self, call: Call) -> Json:
        chat, old = self._own_message(call)
        kept = {k: v for k, v in old.items() if k not in ("reply_markup", "edit_date")}
        return await self._change(chat, old, {**kept, **keyboard(call)})

    async def _delete(self, call: Call) -> bool:
        chat = self._chat(call)
        message = chat.messages.get(call.integer("message_id"))
        if message is None:
            raise bad_request("message to delete not found")
        if time.time() - message["date"] > MAX_AGE_TO_DELETE_S:
            raise bad_request("message can't be deleted for everyone")
        await self._world.delete_message(chat.info["id"], message["message_id"])
        return True

    async def _delete_many(self, call: Call) -> bool:
        chat = self._chat(call)
        for message_id in call.decoded("message_ids") or []:
            if int(message_id) in chat.messages:
                await self._world.delete_message(chat.info["id"], int(message_id))
        return True

    async def _set_reaction(self, call: Call) -> bool:
        chat = self._chat(call)
        message = chat.messages.get(call.integer("message_id"))
        if message is None:
            raise bad_request("message to react not found")
        message["sandbox_reactions"] = [r["emoji"] for r in call.decoded("reaction") or []]
        await self._world.announce(chat.info["id"], "edit", message=message)
        return True

    async def _send_action(self, call: Call) -> bool:
        chat = self._chat(call)
        await self._world.announce(chat.info["id"], "action", action=call.text("action"))
        return True

    async def _answer_query(self, call: Call) -> bool:
        query = self._world.memory.queries.pop(call.text("callback_query_id"), None)
        if query is None:
            raise bad_request("query is too old and response timeout expired or query ID is invalid")
        if len(call.text("text")) > 200:
            raise bad_request("MESSAGE_TOO_LONG")
        await self._world.announce(
            query["chat"], "answer", query_id=call.text("callback_query_id"), text=call.text("text"),
            is_alert=call.is_true("show_alert"),
        )  # fmt: skip
        return True

    # -- parts

    def _chat(self, call: Call, *, cost: int = 0) -> ChatState:
        """The chat of a call, if the bot may write there; `cost` messages are taken from what it may send."""
        chat = self._world.memory.chats.get(call.integer("chat_id"))
        if chat is None:
            raise bad_request("chat not found")
        if chat.is_blocked:
            raise ApiError(403, "Forbidden: bot was blocked by the user")
        if cost and self._is_polite_only:
            self._take(chat.info["id"], cost)
        return chat

    def _take(self, chat_id: int, cost: int) -> None:
        now = time.monotonic()
        tokens, when = self._buckets.get(chat_id, (BURST, now))
        tokens = min(BURST, tokens + (now - when) * PER_SECOND)
        if tokens < cost:
            wait = int((cost - tokens) / PER_SECOND) + 1
            raise ApiError(429, f"Too Many Requests: retry after {wait}", wait)
        self._buckets[chat_id] = (tokens - cost, now)

    def _own_message(self, call: Call) -> tuple[ChatState, Json]:
        chat = self._chat(call, cost=1)
        message = chat.messages.get(call.integer("message_id"))
        if message is None:
            raise bad_request("message to edit not found")
        if not message["from"]["is_bot"]:
            raise bad_request("message can't be edited")
        return chat, message

    async def _post(self, chat: ChatState, content: Json) -> Json:
        return await self._world.add_message(chat.info["id"], self._world.bot, content)

    async def _change(self, chat: ChatState, old: Json, content: Json) -> Json:
        same = {k: v for k, v in old.items() if k in _CONTENT} == {k: v for k, v in content.items() if k in _CONTENT}
        if same:
            raise bad_request(
                "message is not modified: specified new message content and reply markup are exactly the same "
                "as a current content and reply markup of the message"
            )
        return await self._world.change_message(chat.info["id"], old["message_id"], content)

    def _options(self, call: Call) -> Json:
        options: Json = {}
        if call.is_true("protect_content"):
            options["has_protected_content"] = True
        if reply := call.decoded("reply_parameters"):
            message = self._chat(call).messages.get(int(reply["message_id"]))
            if message is None and not reply.get("allow_sending_without_reply"):
                raise bad_request("message to be replied not found")
            if message is not None:
                options["reply_to_message"] = {k: v for k, v in message.items() if k != "reply_to_message"}
        return options

    async def _media(self, call: Call, item: Json) -> Json:
        """The content of an InputMedia."""
        if item.get("type") == "photo":
            content: Json = {"photo": await self._photo(call, item.get("media"), ""), **message_caption(item)}
            return {**content, "has_media_spoiler": True} if item.get("has_spoiler") else content
        if item.get("type") == "document":
            return {"document": await self._document(call, item.get("media"), ""), **message_caption(item)}
        raise bad_request(f"media type {item.get('type')} is not supported by the sandbox")

    async def _photo(self, call: Call, value: Any, field_name: str) -> list[Json]:
        upload = call.upload_of(value, field_name)
        if upload is None:
            known: list[Json] = self._known(value, "photo")
            return known
        try:
            sizes = await asyncio.to_thread(photo_sizes, upload.data)
        except NotAPhoto as error:
            raise bad_request(str(error)) from error
        return keep_photo(self._world, sizes)

    async def _document(self, call: Call, value: Any, field_name: str) -> Json:
        upload = call.upload_of(value, field_name)
        if upload is None:
            document: Json = self._known(value, "document")
            return document
        if len(upload.data) > MAX_DOCUMENT_BYTES:
            raise ApiError(413, "Request Entity Too Large")
        if not upload.data:
            raise bad_request("file must be non-empty")
        return await keep_document(self._world, upload)

    def _known(self, value: Any, kind: str) -> Any:
        """The photo or document that was sent before under this file_id."""
        if not value:
            raise bad_request(f"there is no {kind} in the request")
        file = self._world.memory.files.get(str(value))
        if file is None:
            raise bad_request("wrong file identifier/HTTP URL specified")
        if kind not in file:
            raise bad_request(f"can't use file of another type as {kind.capitalize()}")
        return file[kind]


_CONTENT = ("text", "entities", "caption", "caption_entities", "photo", "document", "reply_markup", "has_media_spoiler")


def keep_photo(world: World, sizes: list[Size]) -> list[Json]:
    """Stores a photo; its PhotoSizes, smallest first."""
    found: list[Json] = []
    for size in sizes:
        file_id = world.add_file(size.jpeg, "photos", "x.jpg")
        found.append(
            {
                "file_id": file_id,
                "file_unique_id": f"u{file_id}",
                "width": size.width,
                "height": size.height,
                "file_size": len(size.jpeg),
            }
        )
    for shown in found:
        world.shown_as(shown["file_id"], "photo", found)
    return found


async def keep_document(world: World, upload: Upload) -> Json:
    """Stores a file as it is, with a thumbnail if it is a picture; its Document."""
    file_id = world.add_file(upload.data, "documents", upload.name)
    document: Json = {
        "file_id": file_id,
        "file_unique_id": f"u{file_id}",
        "file_name": upload.name,
        "mime_type": upload.mime,
        "file_size": len(upload.data),
    }
    small = await asyncio.to_thread(thumbnail, upload.data)
    if small is not None:
        document["thumbnail"] = keep_photo(world, [small])[0]
    world.shown_as(file_id, "document", document)
    return document
