"""A headless Chromium, driven by its DevTools protocol over one web socket: just enough for a page test."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

from aiohttp import ClientSession, ClientWebSocketResponse

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


def find_chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One tab while it is entered. `problems` are the errors that the page logged."""

    def __init__(self, width: int, height: int, *, is_dark: bool = False, scale: float = 1) -> None:
        self._view = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self._is_dark = is_dark
        self._last_id = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.problems: list[str] = []

    async def __aenter__(self) -> Self:
        program = find_chromium()
        assert program is not None
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._browser = await asyncio.create_subprocess_exec(
            program,
            *FLAGS,
            f"--user-data-dir={self._profile.name}",
            "about:blank",
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        port = await asyncio.wait_for(self._port(), 30)
        self._http = ClientSession()
        async with self._http.get(f"http://127.0.0.1:{port}/json") as response:
            tab = next(t for t in await response.json() if t["type"] == "page")
        self._socket = await self._http.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)
        self._reader = asyncio.create_task(self._read(self._socket))
        await self.call("Page.enable")
        await self.call("Runtime.enable")
        await self.call("Emulation.setDeviceMetricsOverride", **self._view)
        theme = "dark" if self._is_dark else "light"
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        await self._http.close()
        self._browser.kill()
        await self._browser.wait()
        self._profile.cleanup()

    async def _port(self) -> int:
        assert self._browser.stderr is not None
        async for line in self._browser.stderr:
            if found := re.search(rb"ws://127\.0\.0\.1:(\d+)/", line):
                return int(found[1])
        raise RuntimeError("Chromium did not start")

    async def _read(self, socket: ClientWebSocketResponse) -> None:
        async for frame in socket:
            said = json.loads(frame.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Runtime.exceptionThrown":
                self.problems.append(said["params"]["exceptionDetails"]["exception"]["description"])
            elif said["method"] == "Runtime.consoleAPICalled" and said["params"]["type"] == "error":
                self.problems.append(str(said["params"]["args"]))

    async def call(self, method: str, **params: Any) -> Any:
        self._last_id += 1
        answer = self._answers[self._last_id] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._last_id, "method": method, "params": params})
        said = await asyncio.wait_for(answer, 30)
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        return said["result"]

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        result = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    async def until(self, script: str, timeout_s: float = 15) -> Any:
        """Waits until the expression is true."""
        async with asyncio.timeout(timeout_s):
            while not (value := await self.run(script)):  # noqa: ASYNC110 - the page cannot notify us
                await asyncio.sleep(0.05)
        return value

    async def key(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    async def type(self, text: str) -> None:
        await self.call("Input.insertText", text=text)

    async def choose_files(self, selector: str, files: list[Path]) -> None:
        document = await self.call("DOM.getDocument")
        node = await self.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        await self.call("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(f) for f in files])

    async def screenshot(self, path: Path) -> None:
        shot = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))
