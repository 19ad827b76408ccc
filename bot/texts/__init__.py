"""Every sentence that people read, in English and Chinese. Plain text: platforms add their own markup and escape it."""

from __future__ import annotations

from dataclasses import dataclass

from bot.choices import Button
from bot.domain import Language
from bot.replies import Reply


@dataclass(frozen=True)
class Words:
    """A reply in words: `title` is shown bold (may be empty), `lines` below it, one paragraph each (may be empty)."""

    title: str
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(part for part in (self.title, *self.lines) if part)


def say(reply: Reply, language: Language) -> Words:
    """A reply in words. Progress bars, pictures and paging are the platform's to add."""
    return Words(type(reply).__name__)  # being written


def label(button: Button, language: Language) -> str:
    """The words on a button, at most 40 characters."""
    return button.choice.action  # being written


def stage(name: str, language: Language) -> str:
    """What a stage of the engine does, in words; "" for one without words."""
    return name  # being written


def category(name: str, language: Language) -> str:
    """A template category's name for people."""
    return name  # being written


def commands(language: Language) -> dict[str, str]:
    """Command -> one-line description, in the order of the menu."""
    return {}  # being written


def alert(reply: Reply, language: Language) -> str:
    """A reply in one line of at most 200 characters, for an alert on a pressed button."""
    return str(say(reply, language))[:200]


def own_template_title(number: int) -> dict[str, str]:
    """What a template of one's own is called, by language."""
    return {"en": f"Your template {number}", "zh": f"你的模板 {number}"}


def subject_name(number: int, language: Language) -> str:
    """What a person's n-th model is called until they name it."""
    return f"模型 {number}" if language == "zh" else f"Model {number}"
