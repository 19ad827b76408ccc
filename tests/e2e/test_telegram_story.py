"""The story that the docs show of Telegram happens as it is shown."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.conftest import Studio, selfie
from tests.e2e.telegram_story import Story, tell
from tests.traces import no_traces


async def test_the_whole_story(studio: Studio, selfies: list[Path], tmp_path: Path) -> None:
    looked: list[str] = []

    async def look(name: str) -> None:
        looked.append(name)

    pair = tmp_path / "pair.jpg"
    pair.write_bytes(selfie(9, (800, 400)))
    studio.start_worker("tests.e2e.slow_engine")
    studio.start_bot()
    async with studio.visitor() as visitor:
        await tell(Story(visitor, look, selfies, pair, studio.is_judged, 60))
    assert len(looked) == 13
    await no_traces(studio.settings, studio.work_dir)
