"""What a button carries: the choice, made safe against other people and old messages, in the 64 bytes every chat takes.

`1:use:built_in_id:<tag>`; the tag is an HMAC over everything and the person, so a button works for one person only and
cannot be made up. Nothing is kept in memory: buttons outlive restarts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from bot.replies import Choice

VERSION = "1"
MAX_BYTES = 64  # https://core.telegram.org/bots/api#inlinekeyboardbutton; Discord takes 100 characters
TAG_CHARACTERS = 8  # 48 bits: one guess costs a request to the platform


class ForgedButton(ValueError):
    """The data was not made by us for this person."""


class OldButton(ValueError):
    """The data was made by an earlier version of the bot."""


def secret_of(token: str) -> bytes:
    """The key of the tags. It follows from the bot's token, so there is nothing more to configure or to lose."""
    return hashlib.sha256(b"buttons:" + token.encode()).digest()


def pack(choice: Choice, person: str, secret: bytes) -> str:
    """Raises ValueError for a choice that does not fit."""
    data = f"{VERSION}:{choice.action}:{choice.value}"
    packed = f"{data}:{_tag(data, person, secret)}"
    if len(packed.encode()) > MAX_BYTES or ":" in choice.action:
        raise ValueError(f"the choice {choice.action} does not fit into a button")
    return packed


def unpack(packed: str, person: str, secret: bytes) -> Choice:
    """Raises OldButton or ForgedButton."""
    data, _, tag = packed.rpartition(":")
    version, _, rest = data.partition(":")
    if version != VERSION and version.isdigit():
        raise OldButton(version)
    if not hmac.compare_digest(_bytes(tag), _bytes(_tag(data, person, secret))):
        raise ForgedButton
    action, _, value = rest.partition(":")
    return Choice(action, value)


def _tag(data: str, person: str, secret: bytes) -> str:
    digest = hmac.digest(secret, _bytes(f"{person}|{data}"), "sha256")
    return base64.urlsafe_b64encode(digest)[:TAG_CHARACTERS].decode()


def _bytes(words: str) -> bytes:
    """Of any string: JSON can carry halves of characters, which are no text."""
    return words.encode("utf-8", "surrogatepass")
