"""The person's side: what the chat page, the tests and the demo do in a person's name.

    PUT  /person/{user}            {"first_name", "language_code"}
    GET  /person/{user}/history    the chat as it is, the bot's commands, and the number of the last event
    GET  /person/{user}/events     server-sent events after ?after=N: message, edit, delete, action, answer, commands
    POST /person/{user}/message    {"text"}
    POST /person/{user}/photos     multipart: pictures as photos, anything with ?as_file=1 (or no picture) as files
                                   -> [{"file", "message"}] in the order in which they were sent
    POST /person/{user}/press      {"message_id", "data"} -> {"query_id"}
    POST /person/{user}/block      {"is_blocked"}
    GET  /media/{file_id}          the bytes of a picture or file
    POST /sandbox/faults           {"method", "error_code", "description", "retry_after", "times"}
    GET  /sandbox/calls            what the bot asked of the server, newest last

`?chat=-5` does it in a group instead of the private chat.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mimetypes
from pathlib import Path
from typing import Any

from aiohttp import BodyPartReader, web

from bot.sandbox.bot_api import keep_document, keep_photo
from bot.sandbox.calls import Upload
from bot.sandbox.markup import spotted
from bot.sandbox.pictures import NotAPhoto, sent_from_a_phone
from bot.sandbox.world import Fault, Json, World

ALBUM = 10  # as many as a Telegram app puts into one album
KEEP_ALIVE_S = 15.0


class PersonApi:
    def __init__(self, world: World) -> None:
        self._world = world

    def add_routes(self, app: web.Application) -> None:
        app.router.add_put("/person/{user}", self._introduce)
        app.router.add_get("/person/{user}/history", self._history)
        app.router.add_get("/person/{user}/events", self._events)
        app.router.add_post("/person/{user}/message", self._message)
        app.router.add_post("/person/{user}/photos", self._photos)
        app.router.add_post("/person/{user}/press", self._press)
        app.router.add_post("/person/{user}/block", self._block)
        app.router.add_get("/media/{file_id}", self._media)
        app.router.add_post("/sandbox/faults", self._add_fault)
        app.router.add_get("/sandbox/calls", self._calls)

    def _who(self, request: web.Request) -> tuple[Json, int]:
        """The person and the chat they write in."""
        try:
            user = int(request.match_info["user"])
            return self._world.person(user), int(request.query.get("chat", user))
        except ValueError:
            raise web.HTTPBadRequest(text="a person and a chat are numbers") from None

    async def _introduce(self, request: web.Request) -> web.Response:
        person, _ = self._who(request)
        told = await request.json()
        person.update({k: str(told[k])[:64] for k in ("first_name", "username", "language_code") if told.get(k)})
        await self._world.announce(person["id"], "commands")
        return web.json_response(person)

    async def _history(self, request: web.Request) -> web.Response:
        person, chat_id = self._who(request)
        chat = self._world.chat(chat_id)
        commands = self._world.memory.commands
        return web.json_response(
            {
                "me": person,
                "bot": self._world.bot,
                "chat": chat.info,
                "messages": list(chat.messages.values()),
                "commands": commands.get(person.get("language_code", "")) or commands.get("", []),
                "is_blocked": chat.is_blocked,
                "last_event": self._world.last_event,
            }
        )

    async def _events(self, request: web.Request) -> web.StreamResponse:
        _, chat_id = self._who(request)
        after = request.headers.get("Last-Event-ID") or request.query.get("after")
        seq = int(after) if after else self._world.last_event
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):  # the page was closed
            await self._stream(response, chat_id, seq)
        return response

    async def _stream(self, response: web.StreamResponse, chat_id: int, seq: int) -> None:
        await response.write(b": hello\n\n")
        while True:
            events = self._world.events_after(chat_id, seq)
            for event in events:
                data = json.dumps(event, ensure_ascii=False)
                await response.write(f"id: {event['seq']}\ndata: {data}\n\n".encode())
                seq = event["seq"]
            if not events:
                await self._wait_or_keep_alive(response, chat_id, seq)

    async def _wait_or_keep_alive(self, response: web.StreamResponse, chat_id: int, seq: int) -> None:
        try:
            async with asyncio.timeout(KEEP_ALIVE_S), self._world.changed:
                await self._world.changed.wait_for(lambda: self._world.events_after(chat_id, seq))
        except TimeoutError:
            await response.write(b": still here\n\n")

    async def _message(self, request: web.Request) -> web.Response:
        person, chat_id = self._who(request)
        text = str((await request.json())["text"]).strip()[:4096]
        if not text:
            raise web.HTTPBadRequest(text="an empty message cannot be sent")
        await self._unblock(person, chat_id)
        found = spotted(text)
        message = await self._world.add_message(
            chat_id, person, {"text": text, **({"entities": found} if found else {})}
        )
        await self._tell_bot(chat_id, message)
        return web.json_response(message)

    async def _photos(self, request: web.Request) -> web.Response:
        """Pictures in the order they come, in albums of ten; what is no picture is sent as a file, as apps do."""
        person, chat_id = self._who(request)
        contents: list[tuple[str, Json]] = []
        caption = ""
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            if part.filename is None:
                caption = (await part.text())[:1024]
                continue
            upload = _upload(Path(part.filename).name, bytes(await part.read()))
            content = await self._content(upload, is_file=request.query.get("as_file") == "1")
            contents.append((upload.name, content))
        sent = []
        for album in _albums(contents):
            messages = await self._send_album(person, chat_id, [content for _, content in album], caption)
            sent += [{"file": name, "message": m} for (name, _), m in zip(album, messages, strict=True)]
        return web.json_response(sent)

    async def _content(self, upload: Upload, *, is_file: bool) -> Json:
        # A Telegram app sends a GIF as an animation, which the Bot API also shows as a document.
        if not is_file and upload.mime != "image/gif":
            try:
                sizes = await asyncio.to_thread(sent_from_a_phone, upload.data)
                return {"photo": keep_photo(self._world, sizes)}
            except NotAPhoto:
                pass
        document = await keep_document(self._world, upload)
        if upload.mime == "image/gif":
            return {"document": document, "animation": {**document, "width": 0, "height": 0, "duration": 1}}
        return {"document": document}

    async def _send_album(self, person: Json, chat_id: int, album: list[Json], caption: str) -> list[Json]:
        await self._unblock(person, chat_id)
        group = {"media_group_id": str(self._world.next_id())} if len(album) > 1 else {}
        messages = []
        for number, content in enumerate(album):
            words = {"caption": caption} if caption and number == 0 else {}
            messages.append(await self._world.add_message(chat_id, person, {**group, **content, **words}))
        for message in messages:
            await self._tell_bot(chat_id, message)
        return messages

    async def _press(self, request: web.Request) -> web.Response:
        """Any data may be pressed, also what no button of the message holds: a changed app can send that too."""
        person, chat_id = self._who(request)
        pressed = await request.json()
        message = self._world.chat(chat_id).messages.get(int(pressed["message_id"]))
        if message is None:
            raise web.HTTPNotFound(text="no such message")
        query_id = str(self._world.next_id())
        self._world.memory.queries[query_id] = {"chat": chat_id, "user": person["id"]}
        await self._world.push_update(
            callback_query={
                "id": query_id,
                "from": person,
                "message": message,
                "chat_instance": str(chat_id),
                "data": str(pressed["data"]),
            }
        )
        return web.json_response({"query_id": query_id})

    async def _block(self, request: web.Request) -> web.Response:
        person, chat_id = self._who(request)
        await self._set_blocked(person, chat_id, bool((await request.json())["is_blocked"]))
        return web.json_response({})

    async def _unblock(self, person: Json, chat_id: int) -> None:
        if self._world.chat(chat_id).is_blocked:
            await self._set_blocked(person, chat_id, False)

    async def _set_blocked(self, person: Json, chat_id: int, is_blocked: bool) -> None:
        chat = self._world.chat(chat_id)
        chat.is_blocked = is_blocked
        before, after = ("member", "kicked") if is_blocked else ("kicked", "member")
        member = {"user": self._world.bot}
        await self._world.push_update(
            my_chat_member={
                "chat": chat.info,
                "from": person,
                "date": 0,
                "old_chat_member": {**member, "status": before, **({"until_date": 0} if is_blocked is False else {})},
                "new_chat_member": {**member, "status": after, **({"until_date": 0} if is_blocked else {})},
            }
        )
        await self._world.announce(chat_id, "blocked", is_blocked=is_blocked)

    async def _tell_bot(self, chat_id: int, message: Json) -> None:
        # Bots in groups run in privacy mode: they see commands only.
        if chat_id > 0 or str(message.get("text", "")).startswith("/"):
            await self._world.push_update(message=message)

    async def _media(self, request: web.Request) -> web.StreamResponse:
        file_id = request.match_info["file_id"]
        file = self._world.memory.files.get(file_id)
        if file is None:
            raise web.HTTPNotFound
        kind = mimetypes.guess_type(file["path"])[0] or "application/octet-stream"
        if not kind.startswith("image/") or "svg" in kind:
            kind = "application/octet-stream"  # nothing that a person uploads runs in the page
        headers = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=self._world.file_bytes(file_id), content_type=kind, headers=headers)

    async def _add_fault(self, request: web.Request) -> web.Response:
        self._world.faults.append(Fault(**await request.json()))
        return web.json_response({})

    async def _calls(self, request: web.Request) -> web.Response:
        calls: list[Any] = list(self._world.calls)
        return web.json_response(calls)


def _upload(name: str, data: bytes) -> Upload:
    """A file with the kind that its name claims, as apps do it: nobody looks inside."""
    return Upload(name, mimetypes.guess_type(name)[0] or "application/octet-stream", data)


def _albums(contents: list[tuple[str, Json]]) -> list[list[tuple[str, Json]]]:
    """Photos and files apart, each in albums of ten, in their order."""
    photos = [c for c in contents if "photo" in c[1]]
    files = [c for c in contents if "photo" not in c[1]]
    return [kind[i : i + ALBUM] for kind in (photos, files) for i in range(0, len(kind), ALBUM)]
