"""Every reply, in both languages, fits what Discord takes."""

from __future__ import annotations

import typing
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from bot import replies as r
from bot import texts
from bot.callback import pack, secret_of
from bot.discord_chat.chat import _names, _view
from bot.discord_chat.dialogs import name_dialog, photos_dialog, template_dialog
from bot.discord_chat.render import ADD_PHOTOS, ADD_TEMPLATE, Card, Renderer, progress_bar
from bot.domain import Language, PhotoVerdict
from bot.replies import Reply
from bot.texts import en, zh
from tests.discord_limits import BUTTON, faults, walk
from tests.unit.bot.test_telegram_render import NASTY, PORTRAITS, REPLIES, RUNNING, TEMPLATE

SECRET = secret_of("discord.token")
PERSON = "9223372036854775807"  # the largest id
LANGUAGES: tuple[Language, ...] = ("en", "zh")


def rendered(reply: Reply, language: Language = "en") -> Card:
    return Renderer(language, partial(pack, person=PERSON, secret=SECRET)).card(reply)


async def payload(card: Card) -> dict[str, Any]:
    """As it goes over the wire, without the offered file, which only an upload can make."""
    return {"components": _view(card, card.text, _names(card.pictures), []).to_components()}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
async def test_every_reply_fits_into_discords_limits(reply: Reply, language: Language) -> None:
    card = rendered(reply, language)
    assert card.text.strip()
    assert len(card.text) + len(card.if_too_big) + 1 <= 4000
    body = await payload(card)
    assert not faults(body, set(_names(card.pictures)))
    assert all(len(one["custom_id"]) <= 64 for one in walk(body["components"]) if one["type"] == BUTTON)


async def test_the_longest_reply_loses_words_and_buttons_but_goes_out() -> None:
    reasons = [*en.REASONS] * 30
    photos = tuple(PhotoVerdict(f"p{n}", n * 10**9, "refused", f"{reason}") for n, reason in enumerate(reasons, 1))
    portraits = tuple(replace(PORTRAITS[0], portrait_id=f"portrait{n:03}") for n in range(40))
    for reply in (
        r.CollectingPhotos("session001", photos, 5, 20, False, False),
        r.OtherCandidates("job" * 6, portraits),
        r.JobFailed("train", "too_few_photos", photos, "a1b2c3", True, "job" * 6),
    ):
        card = rendered(reply)
        assert not faults(await payload(card), set(_names(card.pictures)))
    others = rendered(r.OtherCandidates("job" * 6, portraits))
    assert len(others.pictures) == 10
    assert [button.label for button in others.rows[0]] == ["☆ 1", "Full size 1", "Delete 1"]


def test_of_two_pages_there_is_one_way_to_the_other_one() -> None:
    for reply in (r.Gallery(TEMPLATE, 0, 2, "studio", ("studio",), True), r.Results(PORTRAITS[:1], 1, 2)):
        assert [button.label for button in rendered(reply).rows[0]] == ["›"]
    assert [button.label for button in rendered(r.Results(PORTRAITS[:1], 1, 3)).rows[0]] == ["‹", "›"]


def test_names_cannot_break_the_markup_or_call_anybody() -> None:
    text = rendered(r.Gallery(TEMPLATE, 0, 3, "studio", ("studio",), True)).text
    assert text.startswith("### ")
    assert NASTY in text.replace("\\", "")
    starred = replace(TEMPLATE, title={"en": "# **Bold** [x](http://y)", "zh": ""})
    assert "**Bold**" not in rendered(r.Gallery(starred, 0, 3, "studio", ("studio",), True)).text


def test_a_portrait_in_any_form_says_that_it_was_made_by_a_machine() -> None:
    for reply in (
        r.PortraitsReady("job000", PORTRAITS[:1], 2.0),
        r.OriginalFile(PORTRAITS[0]),
        r.OtherCandidates("job000", PORTRAITS[1:4]),
        r.Results(PORTRAITS[:1], 0, 1),
    ):
        assert "AI-generated" in rendered(reply, "en").text
        assert "AI" in rendered(reply, "zh").text


def test_a_running_job_shows_a_bar() -> None:
    assert progress_bar(0) == "`▱▱▱▱▱▱▱▱▱▱▱▱` 0 %"
    assert progress_bar(1) == "`▰▰▰▰▰▰▰▰▰▰▰▰` 100 %"
    assert progress_bar(0.42) in rendered(r.Working(RUNNING, TEMPLATE)).text


def test_pictures_come_through_dialogs_that_buttons_open() -> None:
    empty = rendered(r.CollectingPhotos("session001", (), 5, 20, False, False))
    assert empty.rows[0][0].custom_id.startswith(f"1:{ADD_PHOTOS.action}:")
    full = r.CollectingPhotos("session001", tuple(PhotoVerdict(f"p{n}", n) for n in range(20)), 5, 20, True, False)
    assert not any(ADD_PHOTOS.action in button.custom_id for row in rendered(full).rows for button in row)
    assert rendered(r.AskTemplatePicture()).rows[0][0].custom_id.startswith(f"1:{ADD_TEMPLATE.action}:")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_dialogs_fit_into_discords_limits(language: Language) -> None:
    dialogs = [photos_dialog(language, asks_consent=asks) for asks in (True, False)]
    dialogs += [template_dialog(language), name_dialog(language, "subject" * 4)]
    for dialog in dialogs:
        data = dialog.to_dict()
        assert 1 <= len(data["title"]) <= 45
        assert 1 <= len(data["components"]) <= 5
        for part in walk(data["components"]):
            assert len(part.get("label") or "") <= 45
            for option in part.get("options", ()):
                assert len(option["label"]) <= 100
    agree = next(part for part in walk(dialogs[0].to_dict()["components"]) if part["type"] == 22)
    assert agree["required"]
    assert not agree["options"][0].get("default")  # a consent that was ticked for the person is none


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_commands_and_options_say_fits(language: Language) -> None:
    for words in texts.commands(language).values():
        assert 1 <= len(words) <= 100
    for key in ("option_agree", "option_photo", "option_template", "option_picture"):
        assert 1 <= len(texts.dialog(key, language, 20)) <= 100


def test_both_languages_have_the_same_words_for_discord() -> None:
    assert en.DISCORD.keys() == zh.DISCORD.keys()
    assert en.DIALOGS.keys() == zh.DIALOGS.keys()
    assert en.DISCORD.keys() <= en.PHRASES.keys()
    for reply in REPLIES:
        for language in LANGUAGES:
            assert "albums" not in rendered(reply, language).text.lower()
            assert "相册" not in rendered(reply, language).text


def test_every_platform_has_words_for_every_reply() -> None:
    assert {type(reply) for reply in REPLIES} == set(typing.get_args(Reply))
    assert texts.say(r.Welcome(False), "en", "discord") != texts.say(r.Welcome(False), "en")
