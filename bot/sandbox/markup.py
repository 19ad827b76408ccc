"""Telegram's text: the HTML parse mode and the entities a client draws, with offsets in UTF-16 code units.

Source of the rules and of the error sentences: https://core.telegram.org/bots/api#html-style and tdlib's
MessageEntity.cpp (parse_html), whose sentences a bot developer searches for.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

Entity = dict[str, Any]

_TAGS = {
    "b": "bold",
    "strong": "bold",
    "i": "italic",
    "em": "italic",
    "u": "underline",
    "ins": "underline",
    "s": "strikethrough",
    "strike": "strikethrough",
    "del": "strikethrough",
    "tg-spoiler": "spoiler",
    "a": "text_link",
    "code": "code",
    "pre": "pre",
    "blockquote": "blockquote",
}
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9-]*)((?:\s+[a-zA-Z-]+(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s>]+))?)*)\s*>")
_ATTRIBUTE = re.compile(r"([a-zA-Z-]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>]+))")
_CHARACTER = re.compile(r"&(?:lt|gt|amp|quot|#[0-9]+|#x[0-9a-fA-F]+);")
_SPOTTED = re.compile(r"(?P<url>https?://[^\s<>]+)|(?<![\w/])(?P<bot_command>/[a-zA-Z0-9_]{1,32}(?:@\w+)?)(?![\w/])")


class MarkupError(ValueError):
    """The text is not well-formed; the sentence is Telegram's."""


def utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def parse_html(source: str) -> tuple[str, list[Entity]]:
    """Text without tags, and its entities in order of their offsets. Raises MarkupError."""
    text = ""
    entities: list[Entity] = []
    open_tags: list[tuple[str, Entity]] = []
    place = 0
    while place < len(source):
        if source[place] == "<":
            byte = len(source[:place].encode("utf-8", "surrogatepass"))
            tag = _TAG.match(source, place)
            if tag is None:
                raise MarkupError(f"Unsupported start tag at byte offset {byte}")
            closing, name, attributes = tag[1], tag[2].lower(), dict(_attributes(tag[3]))
            if closing:
                entities.append(_close(open_tags, name, utf16_length(text), byte))
            else:
                open_tags.append((name, _open(name, attributes, utf16_length(text), byte)))
            place = tag.end()
        elif character := _CHARACTER.match(source, place):
            text += unescape(character[0])
            place = character.end()
        else:
            text += source[place]
            place += 1
    if open_tags:
        name = open_tags[-1][0]
        raise MarkupError(f'Can\'t find end tag corresponding to start tag "{name}"')
    return text, sorted((e for e in entities if e["length"]), key=lambda e: (e["offset"], -e["length"]))


def spotted(text: str) -> list[Entity]:
    """The entities that Telegram finds by itself in a text without markup: commands and addresses."""
    return [
        {
            "type": str(found.lastgroup),
            "offset": utf16_length(text[: found.start()]),
            "length": utf16_length(found[0]),
        }
        for found in _SPOTTED.finditer(text)
    ]


def with_spotted(text: str, entities: list[Entity]) -> list[Entity]:
    """The entities of a formatted text and those that Telegram adds outside of them."""
    taken = [(e["offset"], e["offset"] + e["length"]) for e in entities if e["type"] in ("text_link", "code", "pre")]
    free = (e for e in spotted(text) if not any(e["offset"] < end and start <= e["offset"] for start, end in taken))
    return sorted([*entities, *free], key=lambda e: (e["offset"], -e["length"]))


def _attributes(source: str) -> list[tuple[str, str]]:
    return [(name.lower(), unescape(a or b or c)) for name, a, b, c in _ATTRIBUTE.findall(source)]


def _open(name: str, attributes: dict[str, str], offset: int, byte: int) -> Entity:
    if name == "span" and attributes.get("class") == "tg-spoiler":
        return {"type": "spoiler", "offset": offset}
    if name not in _TAGS:
        raise MarkupError(f'Unsupported start tag "{name}" at byte offset {byte}')
    entity: Entity = {"type": _TAGS[name], "offset": offset}
    if name == "a":
        entity["url"] = attributes.get("href", "")
    return entity


def _close(open_tags: list[tuple[str, Entity]], name: str, end: int, byte: int) -> Entity:
    if not open_tags:
        raise MarkupError(f"Unexpected end tag at byte offset {byte}")
    expected, entity = open_tags.pop()
    if expected != name:
        raise MarkupError(f'Unmatched end tag at byte offset {byte}, expected "</{expected}>", found "</{name}>"')
    return {**entity, "length": end - int(entity["offset"])}
