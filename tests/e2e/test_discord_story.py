"""The story that the docs tell of Discord happens as it is told."""

from __future__ import annotations

from tests.e2e.discord_story import tell
from tests.e2e.town import Place, place, town

__all__ = ["place"]


async def test_the_whole_story(place: Place) -> None:
    async with town(place) as here:
        story = await tell(here)
        assert len(story.lines) > 150
        # What is gone already may be deleted once more, when everything is forgotten.
        refused = [call for call in here.discord.calls if call.status >= 400 and call.method != "DELETE"]
        assert not refused, "Discord refused nothing"
