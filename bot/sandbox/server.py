"""The sandbox: a server on this machine that speaks the Telegram Bot API to a bot and shows a person a chat page.

    async with Sandbox(port=0) as sandbox:
        sandbox.url    # the page; also base of the bot's `{url}/bot<token>/…` and `{url}/file/bot<token>/…`

It is meant for one machine: it listens on 127.0.0.1 and knows no passwords.
"""

from __future__ import annotations

import asyncio
import tempfile
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from bot.sandbox.bot_api import BotApi
from bot.sandbox.calls import ApiError, read_call
from bot.sandbox.person_api import PersonApi
from bot.sandbox.world import World

TOKEN = "42:sandbox-sandbox-sandbox-sandbox-sand"  # noqa: S105 - opens nothing but a chat page on this machine
HOST = "127.0.0.1"
MAX_REQUEST_BYTES = 256 << 20
SAVE_EVERY_S = 0.5
PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


class Sandbox:
    """Runs while it is entered. `folder` keeps the chats over restarts; without one they end with the sandbox."""

    def __init__(
        self, *, port: int = 0, folder: Path | None = None, token: str = TOKEN, is_polite_only: bool = True
    ) -> None:
        self.token = token
        self._port = port
        self._scratch = None if folder else tempfile.TemporaryDirectory(prefix="sandbox-")
        self.world = World(folder or Path(self._scratch.name if self._scratch else ""))
        self._bot_api = BotApi(self.world, is_polite_only=is_polite_only)
        self._runner: web.AppRunner | None = None
        self._saver: asyncio.Task[None] | None = None
        self.url = ""

    async def __aenter__(self) -> Sandbox:
        app = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[_only_own_page])
        app.router.add_route("*", "/bot{token:[^/]+}/{method}", self._answer_bot)
        app.router.add_get("/file/bot{token:[^/]+}/{path:.+}", self._file)
        PersonApi(self.world).add_routes(app)
        app.router.add_get("/", _page)
        app.router.add_get("/page/{name}", _page)
        # Pages and polls hold their requests open; they are cut off at once when the sandbox stops.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self._port)
        await site.start()
        self.url = f"http://{HOST}:{self._runner.addresses[0][1]}"
        self._saver = asyncio.create_task(self._save_often())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._saver is not None:
            self._saver.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
        self.world.save()
        if self._scratch is not None:
            self._scratch.cleanup()

    async def _save_often(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            self.world.save()

    async def _answer_bot(self, request: web.Request) -> web.Response:
        try:
            if request.match_info["token"] != self.token:
                raise ApiError(401, "Unauthorized")
            call = await read_call(request.match_info["method"], request)
            return web.json_response({"ok": True, "result": await self._bot_api.answer(call)})
        except web.HTTPRequestEntityTooLarge:
            return _refused(ApiError(413, "Request Entity Too Large"))
        except ApiError as error:
            return _refused(error)

    async def _file(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        for file_id, file in self.world.memory.files.items():
            if file["path"] == path and request.match_info["token"] == self.token:
                return web.Response(body=self.world.file_bytes(file_id))
        return _refused(ApiError(404, "Not Found"))


def _refused(error: ApiError) -> web.Response:
    body: dict[str, Any] = {"ok": False, "error_code": error.code, "description": error.description}
    if error.retry_after is not None:
        body["parameters"] = {"retry_after": error.retry_after}
    return web.json_response(body, status=error.code)


@web.middleware
async def _only_own_page(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Another site that a person has open in their browser must not write in their name."""
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{request.host}":
        raise web.HTTPForbidden(text="only the sandbox's own page may do this")
    if request.host.split(":")[0] not in (HOST, "localhost"):
        raise web.HTTPForbidden(text="the sandbox is for this machine only")
    return await handler(request)


async def _page(request: web.Request) -> web.Response:
    name = request.match_info.get("name", "index.html")
    file = resources.files("bot.sandbox") / "page" / name
    kind = PAGE_TYPES.get(Path(name).suffix)
    if kind is None or not file.is_file():
        raise web.HTTPNotFound
    fresh = {"Cache-Control": "no-store"}
    return web.Response(body=file.read_bytes(), content_type=kind, charset="utf-8", headers=fresh)
