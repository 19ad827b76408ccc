"""A conversation at the sandbox as lines to read: who said what when, pictures as a word, progress kept short."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Callable, Sequence

from bot.sandbox.person import Person, buttons, words
from bot.sandbox.world import Json

_BAR = re.compile(r"^[▰▱]+ (\d+) %$", re.MULTILINE)
MARGIN = 16
WIDTH = 100
STEP = 10  # per cent of progress between two lines


class Transcript:
    """`follow` runs until it is cancelled and hands every line to `write`; `lines` are all of them."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self.lines: list[str] = []
        self._shown: dict[int, str] = {}  # message -> what was printed of it last
        self._album: str | None = None

    async def follow(self, person: Person) -> None:
        async for event in person.events():
            if event["kind"] in ("message", "edit") and not _is_own_picture(event["message"]):
                self._message(event["message"], event["at"], is_edit=event["kind"] == "edit")
            elif event["kind"] == "answer" and event["text"]:
                self._say(event["at"], "bot !", [event["text"]])

    def pressed(self, label: str) -> None:
        self._say(time.time(), "you", [f"‹{label}›"])

    def sent(self, files: Sequence[str]) -> None:
        """Pictures of the person's; they are told as one line, not one by one."""
        things = "a picture" if len(files) == 1 else f"{len(files)} pictures"
        self._say(time.time(), "you", textwrap.wrap(f"({things}: {', '.join(files)})", WIDTH, subsequent_indent=" "))

    def _message(self, message: Json, at: float, *, is_edit: bool) -> None:
        text = self._in_short(message)
        if self._shown.get(message["message_id"]) == text:
            return
        self._shown[message["message_id"]] = text
        who = "bot" if message["from"]["is_bot"] else "you"
        is_progress = _BAR.search(words(message)) is not None
        lines = [*([] if is_progress else _picture_line(message)), *text.splitlines()]
        keys = "  ".join(f"[{button['text']}]" for button in buttons(message))
        if keys and not is_progress:
            lines.append(keys)
        lines = [part for line in lines for part in (textwrap.wrap(line, WIDTH) or [""])]
        if lines:
            self._say(at, f"{who} *" if is_edit else who, lines)

    def _in_short(self, message: Json) -> str:
        """The text; of a message with a bar only that line and the others that change slowly."""
        text = words(message)
        bar = _BAR.search(text)
        if bar is None:
            return text
        shown = STEP * (int(bar[1]) // STEP)
        others = " - ".join(line for line in text.splitlines() if not _BAR.match(line) and not re.search(r"\d", line))
        return f"{'▰' * (shown // 10)}{'▱' * (10 - shown // 10)} {shown:3} %  {others}"

    def _say(self, at: float, who: str, lines: list[str]) -> None:
        clock = time.strftime("%H:%M:%S", time.localtime(at))
        for number, line in enumerate(lines):
            head = f"{clock}  {who:<5} " if number == 0 else " " * MARGIN
            self.lines.append(f"{head}{line}".rstrip())
            self._write(self.lines[-1])


def _is_own_picture(message: Json) -> bool:
    return not message["from"]["is_bot"] and ("photo" in message or "document" in message)


def _picture_line(message: Json) -> list[str]:
    if "photo" in message:
        size = message["photo"][-1]
        return [f"(photo, {size['width']} x {size['height']})"]
    if "document" in message:
        document = message["document"]
        return [f"(file {document.get('file_name', '')}, {document.get('file_size', 0) / 1e6:.1f} MB)"]
    return []
