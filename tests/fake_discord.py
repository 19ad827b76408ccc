"""A Discord of our own for tests: REST, gateway with RESUME, CDN, and people who use it.

It keeps to what the real one documents and refuses what that refuses: late and double acknowledgements, dead tokens,
messages over the limits, files over 10 MiB, edits of what is gone. Who looks at it sees `messages` as people see them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import WSMsgType, web

from tests.discord_limits import BUTTON, GALLERY, MAX_FILE, MAX_REQUEST, TEXT, Json, faults, walk

APP = "900000000000000001"
GUILD, CHANNEL = "910000000000000001", "920000000000000001"
ME = {"id": APP, "username": "portraits", "discriminator": "0", "global_name": None, "avatar": None, "bot": True}
EPOCH_MS = 1420070400000
EPHEMERAL, LOADING = 64, 1 << 7
COMMAND, COMPONENT, AUTOCOMPLETE, DIALOG = 2, 3, 4, 5
ACK_S = 3.0  # of this process, in which the bot runs too: what else the machine does is not the bot's fault
WITHIN_S = 60.0  # what people wait for comes soon, but a machine with much else to do takes its time


class Refused(Exception):
    """An error as Discord answers it."""

    def __init__(self, status: int, code: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.body = status, {"code": code, "message": message, **more}


SNOWFLAKES = {"channel": 7, "role": 8}  # options by name whose value is an id


@dataclass
class Message:
    """A message as it looks now. `versions` counts sends and edits."""

    id: str
    channel: str
    flags: int
    components: list[Json] = field(default_factory=list)
    content: str = ""
    attachments: list[Json] = field(default_factory=list)
    versions: int = 1
    is_thinking: bool = False

    @property
    def is_ephemeral(self) -> bool:
        return bool(self.flags & EPHEMERAL)

    @property
    def text(self) -> str:
        texts = [one["content"] for one in walk(self.components) if one["type"] == TEXT]
        return "\n".join([self.content, *texts]).strip()

    @property
    def pictures(self) -> list[str]:
        return [
            item["media"]["url"] for one in walk(self.components) if one["type"] == GALLERY for item in one["items"]
        ]

    @property
    def buttons(self) -> dict[str, str]:
        """Action -> custom id; the first of each."""
        found: dict[str, str] = {}
        for one in walk(self.components):
            if one["type"] == BUTTON:
                found.setdefault(one["custom_id"].split(":")[1], one["custom_id"])
        return found

    def payload(self) -> Json:
        return {
            "id": self.id, "channel_id": self.channel, "author": ME, "content": self.content,
            "flags": self.flags | (LOADING if self.is_thinking else 0),
            "timestamp": "2026-01-01T00:00:00+00:00", "edited_timestamp": None, "tts": False, "type": 0,
            "mention_everyone": False, "mentions": [], "mention_roles": [], "embeds": [], "pinned": False,
            "attachments": self.attachments, "components": self.components,
        }  # fmt: skip


@dataclass
class Interaction:
    """One use of a command, button or dialog. `answer`: the callback, once it is there."""

    id: str
    token: str
    user: str
    began: float
    message: Message | None = None  # whose button it was; then the interaction's own message
    answer: asyncio.Future[Json] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    hidden: bool = False
    worked: float = field(default_factory=time.process_time)  # by this process until it began


@dataclass
class Call:
    method: str
    path: str
    body: Any
    status: int = 200


def snowflake(_count: itertools.count[int] = itertools.count(1), *, age_s: float = 0) -> str:  # noqa: B008
    return str(((int((time.time() - age_s) * 1000) - EPOCH_MS) << 22) | (next(_count) & 0x3FFFFF))


class FakeDiscord:
    """`async with FakeDiscord() as discord`. Tests change what stands at the top of `__init__`."""

    def __init__(self) -> None:
        self.token = "discord.test.token"
        self.token_life_s, self.shards = 900.0, 1
        self.message_age_s = 0.0  # new messages look as if they had been sent that long ago
        self.closed_dms: set[str] = set()
        self.fail: list[tuple[str, Refused]] = []  # the next request whose "METHOD path" matches is refused, once each
        self.calls: list[Call] = []
        self.commands: list[Json] = []
        self.messages: dict[str, Message] = {}
        self.deleted: list[str] = []
        self.files: dict[str, tuple[int, bytes]] = {}
        self.identified: list[Json] = []
        self.resumed: list[Json] = []
        self._sockets: dict[int, web.WebSocketResponse] = {}
        self._sent: list[tuple[int, str, Json]] = []
        self._interactions: dict[str, Interaction] = {}
        self._channels: dict[str, str] = {}  # direct-message channel -> user
        self._seen = asyncio.Condition()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_get("/gateway/", self._gateway)
        app.router.add_get("/gateway", self._gateway)
        app.router.add_get("/cdn/{name}", self._cdn)
        app.router.add_route("*", "/api/v10/{path:.*}", self._rest)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port: int = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def api_url(self) -> str:
        return f"{self.url}/api"

    # --- what people do

    async def command(self, user: str, name: str, files: list[Json] | None = None, **options: Any) -> Interaction:
        how = {name: options.pop(name) for name in ("where", "locale", "roles", "permissions") if name in options}
        types = {str: 3, int: 4, bool: 5}
        given: list[Json] = [
            {"name": n, "type": SNOWFLAKES.get(n) or types[type(v)], "value": v} for n, v in options.items()
        ]
        known = next(command for command in self.commands if command["name"] == name)
        attachments = {file["id"]: file for file in files or ()}
        is_one = not any(option["name"] == "photo1" for option in known.get("options", ()))
        for number, file in enumerate(files or (), 1):
            given.append({"name": "picture" if is_one else f"photo{number}", "type": 11, "value": file["id"]})
        data = {
            "id": known["id"],
            "name": name,
            "type": 1,
            "options": given,
            "resolved": {"attachments": attachments} | self._resolve(given),
        }
        return await self._interact(user, COMMAND, data, **how)

    def _resolve(self, given: list[Json]) -> Json:
        """Roles and channels among the options, as Discord sends them along."""
        found: Json = {}
        for option in given:
            if option["type"] == SNOWFLAKES["role"]:
                role = {"id": option["value"], "name": "a role", "permissions": "0", "position": 1, "color": 0}
                role |= {"hoist": False, "managed": False, "mentionable": False, "flags": 0, "colors": {}}
                found["roles"] = {option["value"]: role}
            if option["type"] == SNOWFLAKES["channel"]:
                channel = {"id": option["value"], "type": 0, "name": "a-channel", "permissions": "0", "position": 1}
                found["channels"] = {option["value"]: channel | {"guild_id": GUILD}}
        return found

    async def suggest(self, user: str, name: str, option: str, typed: str, locale: str = "en-US") -> list[Json]:
        known = next(command for command in self.commands if command["name"] == name)
        options = [{"name": option, "type": 3, "value": typed, "focused": True}]
        data = {"id": known["id"], "name": name, "type": 1, "options": options}
        asked = await self._interact(user, AUTOCOMPLETE, data, locale=locale)
        choices: list[Json] = (await asyncio.wait_for(asked.answer, WITHIN_S))["data"]["choices"]
        return choices

    async def press(self, user: str, message: Message, custom_id: str) -> Interaction:
        data = {"custom_id": custom_id, "component_type": BUTTON}
        where = "guild" if message.is_ephemeral else "dm"
        return await self._interact(user, COMPONENT, data, message=message, where=where)

    async def submit(
        self, user: str, dialog: Json, files: dict[str, list[Json]], words: dict[str, str] | None = None, **more: Any
    ) -> Interaction:
        """Fills in a dialog: files by upload, words by field, every box ticked."""
        fields, attachments = [], {}
        for label in dialog["components"]:
            asked = label.get("component", {})
            if asked.get("type") == 19:
                chosen = files.get(asked["custom_id"], [])
                assert asked.get("min_values", 1) <= len(chosen) <= asked.get("max_values", 1)
                attachments |= {file["id"]: file for file in chosen}
                values = [file["id"] for file in chosen]
            elif asked.get("type") == 4:
                typed = (words or {}).get(asked["custom_id"], "")
                assert bool(typed) or not asked.get("required", True)
                fields.append({"type": 18, "component": {**asked, "value": typed}})
                continue
            elif asked.get("type") == 22:
                values = [option["value"] for option in asked["options"]]
            else:
                continue
            fields.append({"type": 18, "component": {**asked, "values": values}})
        data = {"custom_id": dialog["custom_id"], "components": fields, "resolved": {"attachments": attachments}}
        return await self._interact(user, DIALOG, data, **more)

    def file(self, name: str, data: bytes, status: int = 200, **more: Any) -> Json:
        """An attachment as Discord describes it; `status` is what the CDN says when it is fetched."""
        file_id = snowflake()
        self.files[file_id] = (status, data)
        url = f"{self.url}/cdn/{file_id}?ex=1&is=1&hm=1"
        about = {"id": file_id, "filename": name, "size": len(data), "url": url, "proxy_url": url, "ephemeral": True}
        return {**about, "content_type": "image/jpeg", "width": 400, "height": 400, **more}

    async def dialog(self, interaction: Interaction) -> Json:
        answer = await asyncio.wait_for(interaction.answer, WITHIN_S)
        assert answer["type"] == 9, answer
        data: Json = answer["data"]
        return data

    async def until(self, fits: Callable[[Message], bool], within_s: float = WITHIN_S) -> Message:
        """The newest message that fits, as soon as there is one."""
        async with self._seen:
            try:
                async with asyncio.timeout(within_s):
                    while not (found := [m for m in self.messages.values() if fits(m)]):
                        await self._seen.wait()
            except TimeoutError:
                shown = "\n---\n".join(f"{m.text} {list(m.buttons)}" for m in self.messages.values())
                raise AssertionError(f"no such message; there are:\n{shown}") from None
            return found[-1]

    async def has_button(self, action: str, within_s: float = WITHIN_S) -> Message:
        return await self.until(lambda message: action in message.buttons, within_s)

    async def push(self, user: str, action: str, within_s: float = WITHIN_S) -> Interaction:
        message = await self.has_button(action, within_s)
        return await self.press(user, message, message.buttons[action])

    async def drop_gateway(self) -> None:
        for socket in list(self._sockets.values()):
            await socket.close(code=4000)

    async def deliver_again(self) -> None:
        """The last event once more, as after a RESUME that went back too far."""
        await self._dispatch(*self._sent[-1][1:])

    async def _interact(self, user: str, kind: int, data: Json, **how: Any) -> Interaction:
        message: Message | None = how.get("message")
        is_dm = how.get("where", "guild") == "dm"
        made = Interaction(snowflake(), f"token-{snowflake()}", user, time.monotonic(), message)
        made.hidden = not is_dm
        self._interactions[made.token] = made
        person = {"id": user, "username": f"u{user}", "discriminator": "0", "global_name": None, "avatar": None}
        channel = self._dm(user) if is_dm else CHANNEL
        payload: Json = {
            "id": made.id, "application_id": APP, "type": kind, "token": made.token, "version": 1, "data": data,
            "channel_id": channel, "channel": {"id": channel, "type": 1 if is_dm else 0, "recipients": [person],
            "name": "general", "permissions": "0", "position": 0},
            "locale": how.get("locale", "en-US"), "app_permissions": "0",
            "entitlements": [], "authorizing_integration_owners": {"1": user}, "context": 1 if is_dm else 0,
            "attachment_size_limit": MAX_FILE,
        }  # fmt: skip
        if is_dm:
            payload["user"] = person
        else:
            joined, roles = "2026-01-01T00:00:00+00:00", how.get("roles", [])
            may = str(how.get("permissions", 0))
            member = {"user": person, "roles": roles, "joined_at": joined, "permissions": may}
            payload |= {"guild_id": GUILD, "guild": {"id": GUILD, "locale": "en-US", "features": []}}
            payload["member"] = member | {"deaf": False, "mute": False, "flags": 0}
        if message is not None:
            payload["message"] = message.payload()
        await self._dispatch("INTERACTION_CREATE", payload)
        return made

    def _dm(self, user: str) -> str:
        channel = next((c for c, u in self._channels.items() if u == user), None) or snowflake()
        self._channels[channel] = user
        return channel

    # --- gateway

    async def _gateway(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"op": 10, "d": {"heartbeat_interval": 41250}, "s": None, "t": None})
        async for frame in socket:
            if frame.type is not WSMsgType.TEXT:
                break
            said = json.loads(frame.data)
            if said["op"] == 1:
                await socket.send_json({"op": 11})
            elif said["op"] == 2:
                await self._identify(socket, said["d"])
            elif said["op"] == 6:
                self.resumed.append(said["d"])
                self._sockets[0] = socket
                for seq, kind, data in [one for one in self._sent if one[0] > said["d"]["seq"]]:
                    await socket.send_json({"op": 0, "t": kind, "s": seq, "d": data})
                await self._dispatch("RESUMED", {})
        return socket

    async def _identify(self, socket: web.WebSocketResponse, data: Json) -> None:
        if data["token"] != self.token:
            await socket.close(code=4004)
            return
        self.identified.append(data)
        shard = data.get("shard", [0, 1])
        self._sockets[shard[0]] = socket
        ready = {
            "v": 10, "user": ME, "guilds": [], "session_id": f"session{shard[0]}", "shard": shard,
            "resume_gateway_url": f"ws://127.0.0.1:{self.port}/gateway", "application": {"id": APP, "flags": 0},
        }  # fmt: skip
        await socket.send_json({"op": 0, "t": "READY", "s": len(self._sent), "d": ready})

    async def _dispatch(self, kind: str, data: Json) -> None:
        self._sent.append((len(self._sent) + 1, kind, data))
        socket = self._sockets.get(0)
        if socket is not None and not socket.closed:
            await socket.send_json({"op": 0, "t": kind, "s": len(self._sent), "d": data})

    async def _cdn(self, request: web.Request) -> web.Response:
        status, data = self.files.get(request.match_info["name"], (404, b""))
        return web.Response(status=status, body=data if status == 200 else b"")

    # --- REST

    async def _rest(self, request: web.Request) -> web.Response:
        path = "/" + request.match_info["path"]
        body, files = await _read(request)
        call = Call(request.method, path, body)
        self.calls.append(call)
        try:
            self._maybe_fail(call)
            answer = self._answer(request, call, body, files)
            call.status, headers = (200 if answer is not None else 204), {}
        except Refused as refused:
            answer, call.status = refused.body, refused.status
            # Without Via the library takes a 429 for one of the proxy before Discord.
            headers = {"Via": "1.1 fake", "Retry-After": str(refused.body.get("retry_after", 0))}
        async with self._seen:
            self._seen.notify_all()
        data = b"" if answer is None else json.dumps(answer).encode()
        # The library compares the type for equality: no charset may follow.
        kind = {} if answer is None else {"Content-Type": "application/json"}
        return web.Response(status=call.status, body=data, headers=kind | headers)

    def _maybe_fail(self, call: Call) -> None:
        for index, (pattern, refused) in enumerate(self.fail):
            if re.search(pattern, f"{call.method} {call.path}"):
                del self.fail[index]
                raise refused

    def _answer(self, request: web.Request, call: Call, body: Any, files: Json) -> Any:
        fixed: dict[str, Callable[[], Any]] = {
            "GET /users/@me": lambda: self._me(request),
            "GET /oauth2/applications/@me": lambda: {
                "id": APP, "name": "portraits", "icon": None, "description": "", "bot_public": True, "flags": 0,
                "bot_require_code_grant": False, "verify_key": "0", "owner": ME, "team": None, "summary": "",
            },
            "GET /gateway/bot": lambda: {
                "url": f"ws://127.0.0.1:{self.port}/gateway", "shards": self.shards,
                "session_start_limit": {"total": 1000, "remaining": 999, "reset_after": 1, "max_concurrency": 1},
            },
            f"PUT /applications/{APP}/commands": lambda: self._sync(body),
            "POST /users/@me/channels": lambda: self._channel(body),
        }  # fmt: skip
        if (known := fixed.get(f"{call.method} {call.path}")) is not None:
            return known()
        if found := re.fullmatch(r"/interactions/\d+/([^/]+)/callback", call.path):
            return self._callback(found[1], body)
        if found := re.fullmatch(rf"/webhooks/{APP}/([^/]+)(?:/messages/(@original|\d+))?", call.path):
            return self._webhook(call.method, found[1], found[2], body, files)
        if found := re.fullmatch(r"/channels/(\d+)/messages(?:/(\d+))?", call.path):
            return self._in_channel(call.method, found[1], found[2], body, files)
        raise Refused(404, 0, "404: Not Found")

    def _me(self, request: web.Request) -> Json:
        if request.headers.get("Authorization") != f"Bot {self.token}":
            raise Refused(401, 0, "401: Unauthorized")
        return ME

    def _sync(self, body: list[Json]) -> list[Json]:
        about = {"application_id": APP, "version": "1", "default_member_permissions": None}
        self.commands = [{**about, **command, "id": snowflake()} for command in body]
        return self.commands

    def _channel(self, body: Json) -> Json:
        user = str(body["recipient_id"])
        if user not in {made.user for made in self._interactions.values()}:
            # Nobody whom an earlier test left behind comes in between: they never were on this Discord.
            raise Refused(404, 10013, "Unknown User")
        person = {"id": user, "username": f"u{user}", "discriminator": "0", "global_name": None, "avatar": None}
        return {"id": self._dm(user), "type": 1, "recipients": [person], "last_message_id": None}

    def _callback(self, token: str, body: Json) -> Json | None:
        made = self._interactions[token]
        if time.process_time() - made.worked > ACK_S:
            raise Refused(404, 10062, "Unknown interaction")
        if made.answer.done():
            raise Refused(400, 40060, "Interaction has already been acknowledged.")
        made.answer.set_result(body)
        told: Json = {"interaction": {"id": made.id, "type": 2}}
        flags = (body.get("data") or {}).get("flags", 0)
        if body["type"] in (4, 5):
            channel = CHANNEL if made.hidden else self._dm(made.user)
            message = Message(self._new_message_id(), channel, flags, is_thinking=body["type"] == 5)
            message.content = (body.get("data") or {}).get("content") or ""
            made.message = self.messages[message.id] = message
            told["resource"] = {"type": body["type"], "message": message.payload()}
        return told

    def _webhook(self, method: str, token: str, which: str | None, body: Any, files: Json) -> Json | None:
        made = self._interactions.get(token)
        if made is None or time.monotonic() - made.began > self.token_life_s:
            raise Refused(401, 50027, "Invalid Webhook Token")
        if method == "POST":
            channel = CHANNEL if made.hidden else self._dm(made.user)
            return self._put(Message(self._new_message_id(), channel, body.get("flags") or 0, versions=0), body, files)
        message = made.message if which == "@original" else self.messages.get(str(which))
        if message is None or message.id not in self.messages:
            raise Refused(404, 10008, "Unknown Message")
        if method == "GET":
            return message.payload()
        return self._delete(message) if method == "DELETE" else self._put(message, body, files)

    def _in_channel(self, method: str, channel: str, which: str | None, body: Any, files: Json) -> Json | None:
        if channel not in self._channels:
            raise Refused(404, 10003, "Unknown Channel")
        if self._channels[channel] in self.closed_dms and method == "POST":
            raise Refused(403, 50007, "Cannot send messages to this user")
        if which is None:
            return self._put(Message(self._new_message_id(), channel, body.get("flags") or 0, versions=0), body, files)
        message = self.messages.get(which)
        if message is None or message.channel != channel or message.is_ephemeral:
            raise Refused(404, 10008, "Unknown Message")
        return self._delete(message) if method == "DELETE" else self._put(message, body, files)

    def _new_message_id(self) -> str:
        return snowflake(age_s=self.message_age_s)

    def _delete(self, message: Message) -> None:
        del self.messages[message.id]
        self.deleted.append(message.id)

    def _put(self, message: Message, body: Json, files: Json) -> Json:
        kept = message.attachments if "attachments" not in body else []
        new = [self.file(name, data) for name, data in files.values()]
        attachments = [*kept, *new]
        sizes = [len(data) for _, data in files.values()]
        if max(sizes, default=0) > MAX_FILE or sum(sizes) > MAX_REQUEST:
            raise Refused(413, 40005, "Request entity too large")
        wrong = faults(body, {one["filename"] for one in attachments})
        if wrong:
            raise Refused(400, 50035, f"Invalid Form Body: {wrong}")
        message.components = body.get("components") or []
        message.content = body.get("content") or ""
        message.attachments, message.is_thinking = attachments, False
        message.flags |= body.get("flags") or 0
        message.versions += 1
        self.messages.pop(message.id, None)
        self.messages[message.id] = message  # the newest is the last
        return message.payload()


async def _read(request: web.Request) -> tuple[Any, dict[str, tuple[str, bytes]]]:
    if not request.content_type.startswith("multipart/"):
        text = await request.text()
        return (json.loads(text) if text else {}), {}
    body: Any = {}
    files: dict[str, tuple[str, bytes]] = {}
    async for part in await request.multipart():
        name, data = str(part.name), bytes(await part.read(decode=False))  # type: ignore[union-attr]
        if name == "payload_json":
            body = json.loads(data)
        else:
            files[name] = (str(part.filename), data)  # type: ignore[union-attr]
    return body, files
