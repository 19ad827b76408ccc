"""What Discord takes in one message (https://docs.discord.com/developers/components/reference)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

ROW, BUTTON, TEXT, GALLERY, FILE, CONTAINER = 1, 2, 10, 12, 13, 17
MAX_FILE = 10 * 1024 * 1024
MAX_REQUEST = 25 * 1024 * 1024


def walk(components: list[Json]) -> list[Json]:
    """Every component, the nested ones after the one they are in."""
    found: list[Json] = []
    for one in components:
        found += [one, *walk(one.get("components", [])), *walk([one["component"]] if "component" in one else [])]
    return found


def faults(body: Json, names: set[str]) -> list[str]:
    """What is wrong with a message whose attachments have these names."""
    components = body.get("components") or []
    if not components:
        return [] if 0 < len(body.get("content") or "") <= 2000 else ["content"]
    everything = walk(components)
    ids = [one["custom_id"] for one in everything if "custom_id" in one]
    checks = {
        "content beside components": not body.get("content"),
        "more than 40 components": len(everything) <= 40,
        "more than 4000 characters": sum(len(one["content"]) for one in everything if one["type"] == TEXT) <= 4000,
        "a custom id twice": len(ids) == len(set(ids)),
    }
    found = [why for why, holds in checks.items() if not holds]
    return found + [fault for one in everything for fault in _faults_of(one, names)]


def _faults_of(one: Json, names: set[str]) -> Iterator[str]:
    match one["type"]:
        case 1 if not 1 <= len(one["components"]) <= 5:
            yield "a row of none or more than five"
        case 2 if not (1 <= len(one["label"].strip()) <= 80 and 1 <= len(one["custom_id"]) <= 100):
            yield "a button's label or custom id"
        case 12:
            urls = [item["media"]["url"].removeprefix("attachment://") for item in one["items"]]
            if not 1 <= len(urls) <= 10 or set(urls) - names:
                yield "a gallery too long, or of what is not there"
        case 13 if one["file"]["url"].removeprefix("attachment://") not in names:
            yield "a file that is not there"
