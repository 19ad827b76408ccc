"""One's own data come into both chats as files that open."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from bot import replies as r
from bot import texts
from bot.sandbox.person import find_button
from tests.e2e.conftest import Studio
from tests.e2e.town import LIMIT_S, Place, place, town

__all__ = ["place"]

TITLE = texts.say(r.ExportPart("", 1, 1), "en").title


def looked_into(archive: bytes) -> dict[str, Any]:
    """The data, after a look at the pictures."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        photos = [name for name in opened.namelist() if name.startswith("photos/")]
        assert len(photos) == 6
        assert all(opened.read(name).startswith(b"\xff\xd8") for name in photos)
        data: dict[str, Any] = json.loads(opened.read("data.json"))
    return data


async def test_on_telegram(studio: Studio, selfies: list[Path]) -> None:
    studio.start_worker()
    studio.start_bot()
    async with studio.visitor() as visitor:
        person = visitor.person
        await visitor.begin()
        await visitor.send_photos(selfies)
        await visitor.verdicts(studio.is_judged)
        await person.say("/privacy")
        privacy = await person.wait_message(lambda m: find_button(m, "export") is not None, LIMIT_S)
        await person.press(privacy, "export")
        sent = await person.wait_message(lambda m: "document" in m and TITLE in m.get("caption", ""), LIMIT_S)
        assert sent["document"]["file_name"] == "my-data-1.zip"
        data = looked_into(await person.media(sent["document"]["file_id"]))
    assert data["accounts"] == [{"platform": "telegram", "person": "1001", "language": "en"}]


async def test_on_discord(place: Place) -> None:
    async with town(place) as here:
        await here.train_until_start()
        await here.discord.command(here.me, "privacy")
        await here.discord.push(here.me, "export")
        sent = await here.discord.until(lambda m: TITLE in m.text and bool(m.attachments), LIMIT_S)
        _, archive = here.discord.files[sent.attachments[0]["id"]]
        assert sent.attachments[0]["filename"] == "my-data-1.zip"
        assert looked_into(archive)["accounts"] == [{"platform": "discord", "person": here.me, "language": "en"}]
