"""One language's words, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bot.domain import Language, Platform
from bot.texts import en, zh


@dataclass(frozen=True)
class Phrasebook:
    """Words by key. A key that is not there is a mistake of ours; a code that came from outside has a last resort."""

    phrases: dict[str, str]
    commands: dict[str, str]
    reasons: dict[str, tuple[str, str]]
    stages: dict[str, str]
    categories: dict[str, str]
    labels: dict[str, str]
    counted: dict[str, str]
    names: dict[str, str]
    separator: str
    dialogs: dict[str, str]
    notes: dict[str, str]

    def phrase(self, key: str, **values: Any) -> str:
        """With `n`, the form for one or for many is chosen."""
        return _form(self.phrases[key], values.get("n")).format(**values)

    def count(self, what: str, n: int) -> str:
        return _form(self.counted[what], n).format(n=n)

    def reason(self, code: str | None) -> tuple[str, str]:
        """What is wrong and what to do; a code that a newer worker made up is told as a mistake of ours."""
        return self.reasons.get(code or "internal", self.reasons["internal"])

    def note(self, note: str) -> str:
        """What a note of the engine (`what` or `what: more`) says to people; "" for one that is not for them."""
        return self.notes.get(note.partition(":")[0], "")

    def photos(self, numbers: Sequence[int]) -> str:
        """`Photos 3, 7`"""
        listed = self.separator.join(map(str, numbers))
        return _form(self.phrases["photo.number"], len(numbers)).format(numbers=listed)

    def duration(self, seconds: float) -> str:
        if seconds < 5:
            return self.phrases["time.moment"]
        if seconds < 55:
            return self.phrase("time.seconds", n=round(seconds / 5) * 5)
        if seconds < 55 * 60:
            return self.phrase("time.minutes", n=max(round(seconds / 60), 1))
        return self.phrase("time.hours", n=max(round(seconds / 3600), 1))


def _form(forms: str, n: int | None) -> str:
    one, bar, many = forms.partition("|")
    return many if bar and n != 1 else one


def _book(module: Any, otherwise: dict[str, str]) -> Phrasebook:
    return Phrasebook(
        module.PHRASES | otherwise,
        module.COMMANDS,
        module.REASONS,
        module.STAGES,
        module.CATEGORIES,
        module.LABELS,
        module.COUNTED,
        module.NAMES,
        module.LIST_SEPARATOR,
        module.DIALOGS,
        module.NOTES,
    )


_BOOKS: dict[Language, Phrasebook] = {"en": _book(en, {}), "zh": _book(zh, {})}
_DISCORD_BOOKS: dict[Language, Phrasebook] = {"en": _book(en, en.DISCORD), "zh": _book(zh, zh.DISCORD)}


def phrasebook(language: Language, platform: Platform = "telegram") -> Phrasebook:
    return (_DISCORD_BOOKS if platform == "discord" else _BOOKS)[language]
