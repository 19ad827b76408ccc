"""Every sentence that people read, in English and Chinese. Plain text: platforms add their own markup and escape it."""

from __future__ import annotations

from typing import get_args

from bot.choices import Button
from bot.domain import Language, Platform
from bot.replies import Reply
from bot.texts.phrasebook import phrasebook
from bot.texts.sentences import Words, in_words

__all__ = [
    "Words",
    "alert",
    "category",
    "commands",
    "dialog",
    "label",
    "own_template_title",
    "say",
    "stage",
    "subject_name",
]

_PAGING = {"<": "‹", ">": "›"}
# (action, name) -> the key of its label
_OTHERWISE = {
    ("results", "★"): "results.favourites",
    ("subject", ""): "subject.back",
    ("face", "-"): "face.left",
    ("face", "*"): "face.all_left",
}


def say(reply: Reply, language: Language, platform: Platform = "telegram") -> Words:
    """A reply in words. Progress bars, pictures and paging are the platform's to add."""
    return in_words(reply, phrasebook(language, platform), language)


def dialog(key: str, language: Language, n: int = 0) -> str:
    """Titles and labels of Discord's dialogs (at most 45 characters), and descriptions of options (at most 100)."""
    return phrasebook(language).dialogs[key].format(n=n)


def label(button: Button, language: Language) -> str:
    """The words on a button, at most 40 characters."""
    labels, action = phrasebook(language).labels, button.choice.action
    if button.name in _PAGING:
        return _PAGING[button.name]
    if action == "gallery" and button.name:
        return category(button.name, language)
    action = _OTHERWISE.get((action, button.name), action)
    form = labels[f"{action}.n"] if button.number and f"{action}.n" in labels else labels[action]
    return form.format(n=button.number, name=button.name)[:40]


def stage(name: str, language: Language) -> str:
    """What a stage of the engine does, in words; "" for one without words."""
    return phrasebook(language).stages.get(name, "")


def category(name: str, language: Language) -> str:
    """A template category's name for people."""
    return phrasebook(language).categories.get(name, name.replace("_", " ").capitalize())


def commands(language: Language) -> dict[str, str]:
    """Command -> one-line description, in the order of the menu."""
    return phrasebook(language).commands


def alert(reply: Reply, language: Language) -> str:
    """A reply in one line of at most 200 characters, for an alert on a pressed button."""
    return str(say(reply, language)).replace("\n", " ")[:200]


def own_template_title(number: int) -> dict[str, str]:
    """What a person's n-th template is called, by language."""
    languages: tuple[Language, ...] = get_args(Language)
    return {language: phrasebook(language).names["own_template"].format(n=number) for language in languages}


def subject_name(number: int, language: Language) -> str:
    """What a person's n-th model is called until they name it."""
    return phrasebook(language).names["subject"].format(n=number)
