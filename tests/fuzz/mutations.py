"""Damage: bytes and JSON values that look almost right, by a seeded generator, so that any input can be made again."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from random import Random
from typing import Any

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)
STRINGS = (
    "", " ", "\n", "\0", "a\0b", "\ud800", "\udfff\ud800", "\u202egpj.exe", "\u200d\u200d", "\ufeff", "𝔘𝔫𝔦",
    "👩‍👩‍👧‍👦" * 20, "../../etc/passwd", "..\\..\\x", "/", "//", "/train", "/start " + "A" * 64,
    "/forget@portrait_sandbox_bot", "'; DROP TABLE users;--", "<b>x</b>", "<script>alert(1)</script>",
    "&amp;&#0;&#x110000;", "{0.__class__}", "%s%n", "$(reboot)", "`id`", "${jndi:ldap://x}", "1" * 400,
    "9" * 5000, "-1", "1e309", "NaN", "Infinity", "0x10", "true", "null", "你好", "ñandú", "é" * 3000,
    "\t\r\n\v", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "1:use:x:AAAAAAAA",
    ":::::::", "users/u1/photos/photo1.jpg",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 7, 255, 256, 65_535, 2**31 - 1, 2**31, -(2**31), 2**32, 2**52, 2**53 + 1, 2**63 - 1, 2**63,
    -(2**63), 2**64, 10**30, -(10**30), 0.5, -0.0, 1e308, 1e-320, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
SHAPES: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": None}, [{}], {"kind": "train"}, [None] * 50)


def text(draw: Random) -> str:
    """A string that has broken programs before, or a random one."""
    if draw.random() < 0.7:
        return draw.choice(STRINGS)
    return "".join(
        chr(draw.choice((draw.randrange(32, 127), draw.randrange(0xD7FF)))) for _ in range(draw.randrange(80))
    )


def value(draw: Random) -> Any:
    """Any JSON value."""
    kind = draw.random()
    if kind < 0.45:
        return text(draw)
    return draw.choice(NUMBERS) if kind < 0.75 else copy.deepcopy(draw.choice(SHAPES))


def damaged(draw: Random, original: Any, *, most: int = 3) -> Any:
    """A JSON value with up to `most` of its parts changed, removed, doubled, moved or joined by unknown ones."""
    changed = copy.deepcopy(original)
    for _ in range(draw.randint(1, most)):
        places = list(_places(changed))
        if not places:
            return value(draw)
        holder, key = draw.choice(places)
        kind = draw.random()
        if kind < 0.6:
            holder[key] = value(draw)
        elif kind < 0.75:
            del holder[key]
        elif kind < 0.85 and isinstance(holder, dict):
            holder[text(draw)] = value(draw)
        elif isinstance(holder, list):
            holder.insert(draw.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
        else:
            other, place = draw.choice(places)
            holder[key] = copy.deepcopy(other[place]) if place in _keys(other) else value(draw)
    return changed


def _places(node: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict | list):
            found += [(here, key) for key in _keys(here)]
            waiting += here.values() if isinstance(here, dict) else here
    return found


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def json_bytes(draw: Random, original: Any) -> bytes:
    """A document: a damaged value, with or without escapes, sometimes with damaged bytes, sometimes far too deep."""
    kind = draw.random()
    if kind < 0.02:
        depth = draw.choice((100, 1_000, 100_000))
        return (b"[" * depth + b"]" * depth) if draw.random() < 0.5 else b'{"a":' * depth + b"1" + b"}" * depth
    is_escaped = draw.random() < 0.5
    changed = damaged(draw, original, most=draw.choice((1, 1, 1, 3))) if kind > 0.1 else original
    data = json.dumps(changed, ensure_ascii=is_escaped).encode("utf-8", "surrogatepass")
    return spoiled(draw, data, most=2) if 0.1 < kind < 0.25 else data


def spoiled(draw: Random, data: bytes, others: Sequence[bytes] = (), *, most: int = 6) -> bytes:
    """Bytes with up to `most` flips, replacements, cuts, repeats and pieces of `others`."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, most)):
        if not changed:
            return bytes(draw.randbytes(draw.randrange(64)))
        at = draw.randrange(len(changed)) if draw.random() < 0.5 else draw.randrange(min(len(changed), 64))
        length = min(draw.choice((1, 2, 4, 8, 64, 1024)), len(changed) - at)
        match draw.randrange(8):
            case 0 | 1:
                changed[at] ^= 1 << draw.randrange(8)
            case 2:
                changed[at] = draw.choice(INTERESTING)
            case 3:
                changed[at : at + length] = draw.randbytes(length)
            case 4:
                del changed[at : at + length]
            case 5:
                changed[at:at] = changed[at : at + length] * draw.randint(1, 3)
            case 6 if others:
                other = draw.choice(others)
                begin = draw.randrange(max(len(other), 1))
                changed[at:at] = other[begin : begin + length]
            case _:
                del changed[at if draw.random() < 0.1 else max(at, len(changed) // 2) :]
    return bytes(changed)
