"""Everything that a person does with the bot on Discord, in one story: played by a test, and written down for the docs.

python -m tests.e2e.discord_story docs/chat-flows.md
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.discord_limits import BUTTON, walk
from tests.e2e.conftest import selfie
from tests.e2e.town import LIMIT_S, PEOPLE, Town, place_in, town, words
from tests.fake_discord import Interaction, Json, Message

MARK = "<!-- written by tests/e2e/discord_story.py; what stands below is replaced -->"
WIDTH = 108


@dataclass
class Story:
    """One person's. `lines` are what was said and done, as markdown."""

    town: Town
    lines: list[str] = field(default_factory=list)

    def chapter(self, title: str) -> None:
        if self.lines:
            self.lines.append("```")
        self.lines += ["", f"### {title}", "", "```"]

    def end(self) -> list[str]:
        return [*self.lines, "```"]

    async def asks(self, told: str, name: str, files: list[Json] | None = None, **options: Any) -> Interaction:
        self.lines.append(f"you: {told}")
        return await self.town.discord.command(self.town.me, name, files, **options)

    async def presses(self, message: Message, action: str, nth: int = 0) -> Interaction:
        """The nth button of the message that does this."""
        found = [one for one in _buttons(message) if one["custom_id"].split(":")[1] == action]
        self.lines.append(f"you: ( {found[nth]['label']} )")
        return await self.town.discord.press(self.town.me, message, found[nth]["custom_id"])

    async def opens(self, interaction: Interaction) -> Json:
        dialog = await self.town.discord.dialog(interaction)
        self.lines += [f"dialog “{dialog['title']}”:", *_fields(dialog)]
        return dialog

    async def hears(self, fits: Callable[[Message], bool], who: str = "bot (only you see this)") -> Message:
        message = await self.town.discord.until(fits, LIMIT_S)
        self.lines += [f"{who}:", *_told(message)]
        return message

    async def is_told(self, pressed: Interaction, who: str = "bot (only you see this)") -> None:
        """An answer to a press that needs no card."""
        answer = await asyncio.wait_for(pressed.answer, LIMIT_S)
        self.lines += [f"{who}:", f"    {answer['data']['content']}"]


def _buttons(message: Message) -> list[Json]:
    return [one for one in walk(message.components) if one["type"] == BUTTON]


def _told(message: Message) -> list[str]:
    lines = [f"    {line}" for paragraph in message.text.splitlines() for line in _wrapped(paragraph.replace("\\", ""))]
    if message.pictures:
        lines.append(f"    [{len(message.pictures)} picture{'s' if len(message.pictures) > 1 else ''}]")
    elif message.attachments:
        lines.append(f"    [file: {message.attachments[0]['filename']}]")
    rows = [one for one in walk(message.components) if one["type"] == 1]
    return lines + ["    " + " ".join(f"( {button['label']} )" for button in row["components"]) for row in rows]


def _wrapped(paragraph: str) -> list[str]:
    lines, line = [], ""
    for word in paragraph.split(" "):
        if line and len(line) + len(word) >= WIDTH:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def _fields(dialog: Json) -> list[str]:
    lines = []
    for part in dialog["components"]:
        asked = part.get("component", {})
        match asked.get("type"):
            case 19:
                lines.append(f"    {part['label']}: [files, {asked.get('min_values', 1)}–{asked.get('max_values', 1)}]")
            case 22:
                lines.append(f"    {part['label']}: ☐ {asked['options'][0]['label']}")
            case 4:
                lines.append(f"    {part['label']}: [text]")
            case _:
                lines += [f"    {line}" for text in part["content"].splitlines() for line in _wrapped(text)]
    return lines


def _has(action: str) -> Callable[[Message], bool]:
    return lambda message: action in message.buttons


def _says(*parts: str) -> Callable[[Message], bool]:
    return lambda message: all(part in words(message) for part in parts)


async def tell(here: Town) -> Story:
    """The whole story; what does not happen as it should raises."""
    story = Story(here)
    await _first_photos(story)
    await _training(story)
    await _portraits(story)
    await _own_template(story)
    await _several_people(story)
    await _models(story)
    await _lists(story)
    await _refused_buttons(story)
    await _forgetting(story)
    return story


async def _first_photos(story: Story) -> None:
    here = story.town
    story.chapter("Photos as options, without the consent yet")
    await story.asks("/train photo1:… photo6:…", "train", here.photos(6))
    question = await story.hears(_has("agree"))
    await story.presses(question, "agree")
    await story.hears(_says("Thank you"), "bot (only you see this), the same message")
    await story.hears(lambda m: "6 photos" in m.text and "start" in m.buttons)
    story.chapter("More photos by the dialog; one of them is not a picture")
    collection = await here.discord.has_button("add_photos")
    dialog = await story.opens(await story.presses(collection, "add_photos"))
    files = [*here.photos(2, 6), here.discord.file("notes.jpg", b"no picture at all")]
    await here.discord.submit(here.me, dialog, {"first": files}, message=collection)
    await story.hears(_says("1 file was not taken"))
    await story.hears(lambda m: "8 photos" in m.text and "start" in m.buttons)


async def _training(story: Story) -> None:
    here = story.town
    story.chapter("Training: progress in one message, then the news")
    for key in here.place.newest("photos/*.jpg")[-8:]:
        await here.blobs.put(key, b"DO take 100")
    await story.presses(await here.discord.has_button("start"), "start")
    await story.hears(lambda m: "▰" in m.text and bool(m.pictures) and "cancel_job" in m.buttons)
    await story.hears(_says("model is ready"))
    await story.hears(_says("Training your model", "Done"), "bot (only you see this), the progress message")


async def _portraits(story: Story) -> None:
    here = story.town
    story.chapter("Gallery and a portrait")
    await story.presses(await here.discord.until(_says("model is ready")), "gallery")
    gallery = await story.hears(_has("use"))
    before = gallery.text
    await story.presses(gallery, "gallery", nth=1)
    await here.discord.until(lambda m: m.id == gallery.id and m.text != before, LIMIT_S)
    await story.hears(_has("use"), "bot (only you see this), the same message")
    await story.presses(gallery, "use")
    portrait = await story.hears(_has("again"))
    story.chapter("What can be done with a portrait")
    await story.presses(portrait, "favourite")
    await story.hears(
        lambda m: m.id == portrait.id and "★" in str(m.components), "bot (only you see this), the same message"
    )
    await story.presses(portrait, "original")
    await story.hears(_says("original file"))
    await story.presses(portrait, "more")
    best = await story.hears(lambda m: m.id != portrait.id and "others" in m.buttons)
    await story.presses(best, "others")
    others = await story.hears(lambda m: len(m.pictures) == 3)
    await story.presses(others, "delete_portrait", nth=2)
    await story.hears(lambda m: len(m.pictures) == 2, "bot (only you see this), the same message")
    story.chapter("By name: /portrait with a suggestion")
    suggested = await here.discord.suggest(here.me, "portrait", "template", "st")
    names = ", ".join(choice["name"] for choice in suggested)
    story.lines += ["you: /portrait template:st…", f"    suggested: {names}"]


async def _own_template(story: Story) -> None:
    here = story.town
    story.chapter("A template of one's own")
    await story.asks("/portrait picture:me.jpg", "portrait", [here.discord.file("me.jpg", selfie(3))])
    await story.hears(_has("delete_template"))
    await story.asks("/portrait picture:notes.txt", "portrait", [here.discord.file("notes.txt", b"x", content_type="")])
    await story.hears(_says("cannot be a template"))


async def _several_people(story: Story) -> None:
    here = story.town
    story.chapter("Several people in one picture")
    wide = here.discord.file("us.jpg", selfie(4, (800, 400)))
    await story.asks("/portrait picture:us.jpg", "portrait", [wide])
    await story.presses(await story.hears(_has("seat")), "seat")
    question = await story.hears(_says("Who is face 1?"))
    await story.presses(question, "face")
    question = await story.hears(_says("Who is face 2?"), "bot (only you see this), the same message")
    await story.presses(question, "face", nth=1)
    await story.hears(_says("So be it"), "bot (only you see this), the same message")
    await story.hears(lambda m: _says("Here is your portrait", "Your template 2")(m))


async def _models(story: Story) -> None:
    here = story.town
    story.chapter("Models: their card, a name, a retraining")
    await story.asks("/models", "models")
    models = await story.hears(_says("Your models"))
    await story.presses(models, "subject")
    card = await story.hears(_says("Model 1", "Likeness to you"), "bot (only you see this), the same message")
    dialog = await story.opens(await story.presses(card, "rename"))
    await here.discord.submit(here.me, dialog, {}, message=card, words={"name": "Anna, summer"})
    card = await story.hears(_says("Anna, summer", "Likeness"))
    await story.presses(card, "retrain")
    collection = await story.hears(_has("cancel_collection"))
    await story.presses(collection, "cancel_collection")
    await story.hears(_says("Cancelled"))
    await story.presses(card, "delete_subject")
    await story.hears(_has("delete_subject_yes"), "bot (only you see this), the same message")


async def _lists(story: Story) -> None:
    here = story.town
    story.chapter("Lists")
    await story.asks("/results", "results")
    results = await story.hears(_says("Portrait 1 of"))
    await story.presses(
        results, "results", nth=len([b for b in _buttons(results) if ":results:" in b["custom_id"]]) - 1
    )
    await story.hears(_says("Favourite 1 of 1"), "bot (only you see this), the same message")
    for command, says in (
        ("queue", "nothing in the queue"),
        ("cancel", "nothing to cancel"),
        ("privacy", "Your data"),
        ("help", "What I can do"),
    ):
        await story.asks(f"/{command}", command)
        await story.hears(_says(says))
    await here.nothing_is_thinking()


async def _refused_buttons(story: Story) -> None:
    here = story.town
    story.chapter("Buttons that are somebody else's, made up, of an older version, or of what is gone")
    portrait = await here.discord.until(lambda m: "again" in m.buttons and len(m.pictures) == 1)
    again = portrait.buttons["again"]
    for who, custom_id, told in (
        (next(PEOPLE), again, "somebody else: ( Again )"),
        (here.me, again[:-1] + "?", "you: ( Again ), with a changed id"),
        (here.me, f"0{again[1:]}", "you: ( Again ) of an older version"),
    ):
        story.lines.append(told)
        await story.is_told(
            await here.discord.press(who, portrait, custom_id),
            "bot (only the presser sees this)" if who != here.me else "bot (only you see this)",
        )
    mine, delete = portrait.buttons["original"], portrait.buttons["delete_portrait"]
    await here.discord.press(here.me, portrait, delete)
    await here.discord.until(_says("The portrait is deleted"), LIMIT_S)
    story.lines.append("you: ( Full size ) of a portrait that was deleted")
    await here.discord.press(here.me, portrait, mine)
    await story.hears(lambda m: m.content == "This button is out of date.")


async def _forgetting(story: Story) -> None:
    story.chapter("Forgetting")
    await story.asks("/forget", "forget")
    question = await story.hears(_has("forget_yes"))
    await story.presses(question, "forget_yes")
    question = await story.hears(_has("forget_sure"), "bot (only you see this), the same message")
    await story.presses(question, "forget_sure")
    await story.hears(_says("Everything is deleted.", "messages"))


async def _write(path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="story-") as folder, place_in(Path(folder)) as place:
        place.start_worker()
        async with town(place) as here:
            story = await tell(here)
    await asyncio.to_thread(_replace, path, story.end())


def _replace(path: Path, lines: list[str]) -> None:
    """What stands above the mark stays."""
    before, mark, _ = path.read_text("utf-8").partition(MARK)
    path.write_text(before + (mark or MARK) + "\n" + "\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    asyncio.run(_write(Path(sys.argv[1])))
