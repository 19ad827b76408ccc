"""A person at the sandbox, for the demo and for tests: talks, sends photos, presses buttons, waits for answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import ClientError, ClientSession, ClientTimeout, FormData

from bot.sandbox.world import Json


class Person:
    """Enter it, then talk. `seen` are all events of the chat since then, in order."""

    def __init__(self, url: str, user: int = 1001, *, language: str = "en", chat: int | None = None) -> None:
        self._path = f"{url}/person/{user}"
        self._url, self._user, self._language = url, user, language
        self._query = {"chat": str(chat or user)}
        self.messages: dict[int, Json] = {}
        self.seen: list[Json] = []
        self._heard = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._http = ClientSession(timeout=ClientTimeout(total=None, sock_connect=10))
        await self._ask("PUT", "", json={"language_code": self._language})
        history = await self._ask("GET", "/history")
        self.messages = {m["message_id"]: m for m in history["messages"]}
        self._listener = asyncio.create_task(self._listen(history["last_event"]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.cancel()
        await asyncio.gather(self._listener, return_exceptions=True)
        await self._http.close()

    # -- doing

    async def say(self, text: str) -> Json:
        message: Json = await self._ask("POST", "/message", json={"text": text})
        return message

    async def send_photos(self, photos: Sequence[Path | tuple[str, bytes]], *, as_files: bool = False) -> list[Json]:
        """Files, or names with bytes, as a Telegram app sends them, in albums of ten: [{"file", "message"}] as sent."""
        form = FormData()
        for photo in photos:
            name, data = (photo.name, photo.read_bytes()) if isinstance(photo, Path) else photo
            form.add_field("file", data, filename=name)
        query = {"as_file": "1"} if as_files else {}
        sent: list[Json] = await self._ask("POST", "/photos", data=form, query=query)
        return sent

    async def press(self, message: Json, button: str | Json) -> str:
        """A button of the message, by its words (or a part of them) or itself; the press's id, for `answer_to`."""
        if isinstance(button, str):
            found = [b for b in buttons(message) if button.lower() in b["text"].lower()]
            if not found:
                raise LookupError(f"no button {button!r} among {[b['text'] for b in buttons(message)]}")
            button = found[0]
        return await self.press_data(message, button["callback_data"])

    async def press_data(self, message: Json, data: str) -> str:
        pressed = await self._ask("POST", "/press", json={"message_id": message["message_id"], "data": data})
        return str(pressed["query_id"])

    async def block(self, *, is_blocked: bool = True) -> None:
        await self._ask("POST", "/block", json={"is_blocked": is_blocked})

    async def media(self, file_id: str) -> bytes:
        async with self._http.get(f"{self._url}/media/{file_id}") as response:
            response.raise_for_status()
            return await response.read()

    # -- waiting

    async def wait(self, is_it: Callable[[Json], bool], timeout_s: float, *, since: int = 0) -> Json:
        """The first event after the first `since` of `seen` that fits. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s), self._heard:
            while True:
                for event in self.seen[since:]:
                    if is_it(event):
                        return event
                since = len(self.seen)
                await self._heard.wait()

    async def wait_message(self, is_it: Callable[[Json], bool], timeout_s: float, *, since: int = 0) -> Json:
        """A message of the bot, new or edited, that fits."""
        event = await self.wait(
            lambda e: e["kind"] in ("message", "edit") and e["message"]["from"]["is_bot"] and is_it(e["message"]),
            timeout_s,
            since=since,
        )
        found: Json = event["message"]
        return found

    async def answer_to(self, query_id: str, timeout_s: float = 10) -> Json:
        """What the bot answered to a press: {"text", "is_alert"}."""
        return await self.wait(lambda e: e["kind"] == "answer" and e["query_id"] == query_id, timeout_s)

    async def events(self) -> AsyncIterator[Json]:
        """All events from the first one, without an end."""
        place = 0
        while True:
            async with self._heard:
                while len(self.seen) <= place:
                    await self._heard.wait()
            yield self.seen[place]
            place += 1

    async def _listen(self, after: int) -> None:
        while True:
            try:
                query = {**self._query, "after": str(after)}
                async with self._http.get(f"{self._path}/events", params=query, read_bufsize=1 << 22) as response:
                    async for line in response.content:
                        if line.startswith(b"data: "):
                            event = json.loads(line[6:])
                            after = event["seq"]
                            await self._hear(event)
            except (ClientError, OSError):
                pass
            await asyncio.sleep(0.2)  # the sandbox is being started again

    async def _hear(self, event: Json) -> None:
        if event["kind"] in ("message", "edit"):
            self.messages[event["message"]["message_id"]] = event["message"]
        elif event["kind"] == "delete":
            self.messages.pop(event["message_id"], None)
        async with self._heard:
            self.seen.append(event)
            self._heard.notify_all()

    async def _ask(self, method: str, path: str, *, query: dict[str, str] | None = None, **body: Any) -> Any:
        params = {**self._query, **(query or {})}
        async with self._http.request(method, self._path + path, params=params, **body) as response:
            if response.status >= 400:
                raise RuntimeError(f"the sandbox refused {path}: {await response.text()}")
            return await response.json()


def words(message: Json) -> str:
    return str(message.get("text") or message.get("caption") or "")


def choice_in(button: Json) -> tuple[str, str]:
    """What a button of ours means: its action and value (see bot/callback.py)."""
    _, _, rest = str(button.get("callback_data", "")).partition(":")
    action, _, value = rest.rpartition(":")[0].partition(":")
    return action, value


def find_button(message: Json, action: str) -> Json | None:
    """The message's first button with that action, whatever its words."""
    return next((b for b in buttons(message) if choice_in(b)[0] == action), None)


def buttons(message: Json) -> list[Json]:
    return [b for row in message.get("reply_markup", {}).get("inline_keyboard", []) for b in row]
