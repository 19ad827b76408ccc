"""Encryption of what lies in the blob store: a random key per user, wrapped by the operator's master key.

A sealed blob is `MAGIC`, 16 bytes of salt, and the chunks. Each blob has a key of its own (HKDF of the user's key and
the salt), so chunk numbers serve as nonces. The nonce also says which chunk is the last, and every chunk is bound to
the blob's name: what was cut, reordered, extended or moved to another name does not open. This is the STREAM
construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015) with AES-256-GCM, as in age and Tink.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAGIC = b"portrait-sealed-1\n"
KEY_BYTES = 32
CHUNK_BYTES = 1 << 20
_SALT_BYTES = 16
_NONCE_BYTES = 12
_TAG_BYTES = 16
_ALPHABETS = str.maketrans("+/", "-_")  # `openssl rand -base64 32` writes the other one


class CannotOpen(OSError):
    """A blob is damaged or was sealed under another key, or no master key opens a user's key."""


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def seal(data: bytes, key: bytes, name: str) -> bytes:
    """`data` under `key`, bound to `name`. Grows by 50 bytes and 16 per mebibyte."""
    return b"".join(sealed_pieces(io.BytesIO(data), key, name))


def unseal(sealed: bytes, key: bytes, name: str) -> bytes:
    """What was sealed. Raises CannotOpen."""
    return b"".join(unsealed_pieces(io.BytesIO(sealed), key, name))


def sealed_pieces(data: BinaryIO, key: bytes, name: str) -> Iterator[bytes]:
    """What `seal` makes of a file, with two chunks of it in memory."""
    salt = secrets.token_bytes(_SALT_BYTES)
    yield MAGIC + salt
    cipher, number, chunk, is_last = _cipher(key, salt), 0, data.read(CHUNK_BYTES), False
    while not is_last:
        following = data.read(CHUNK_BYTES)
        is_last = not following
        yield cipher.encrypt(_nonce(number, is_last=is_last), chunk, name.encode())
        number, chunk = number + 1, following


def unsealed_pieces(sealed: BinaryIO, key: bytes, name: str) -> Iterator[bytes]:
    """What was sealed, out of a file that can be sought, with one chunk of it in memory.

    Every piece that comes is true and in its place. CannotOpen is raised in place of the first one that is not, which
    in a file that was cut is the last: only who has had all pieces has the blob.
    """
    size, start, step = sealed.seek(0, os.SEEK_END), len(MAGIC) + _SALT_BYTES, CHUNK_BYTES + _TAG_BYTES
    sealed.seek(0)
    if sealed.read(len(MAGIC)) != MAGIC or size < start + _TAG_BYTES:
        raise CannotOpen(f"the blob {name} is not sealed")
    cipher, count = _cipher(key, sealed.read(_SALT_BYTES)), -(-(size - start) // step)
    for number in range(count):
        try:
            yield cipher.decrypt(_nonce(number, is_last=number == count - 1), sealed.read(step), name.encode())
        except InvalidTag:
            raise CannotOpen(f"the blob {name} is damaged or was sealed under another key") from None


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=MAGIC).derive(key))


def _nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(_NONCE_BYTES - 1, "big") + bytes([is_last])


@dataclass(frozen=True)
class MasterKeys:
    """The operator's keys: the first one wraps, all unwrap (older ones until everything is wrapped anew)."""

    keys: tuple[bytes, ...]

    @classmethod
    def read(cls, text: str) -> MasterKeys:
        """Keys as 43 or 44 characters of base64 each, separated by spaces, commas or lines. Raises ValueError."""
        return cls(tuple(_read_key(word) for word in re.split(r"[\s,]+", text.strip()) if word))

    def __post_init__(self) -> None:
        if not self.keys:
            raise ValueError("there is no master key in it")

    def text(self) -> str:
        """As `read` takes it."""
        return " ".join(written_key(key) for key in self.keys)

    @property
    def names(self) -> tuple[str, ...]:
        """A short name per key, which tells nothing about it."""
        return tuple(_name(key) for key in self.keys)

    def wrap(self, key: bytes) -> str:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        body = nonce + AESGCM(self.keys[0]).encrypt(nonce, key, MAGIC)
        return f"{self.names[0]}.{base64.urlsafe_b64encode(body).decode()}"

    def unwrap(self, wrapped: str) -> bytes:
        """The key in it. Raises CannotOpen when it was wrapped by none of these keys."""
        name, _, body = wrapped.partition(".")
        for key in self.keys:
            if _name(key) == name:
                try:
                    raw = base64.urlsafe_b64decode(body)
                    return AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], MAGIC)
                except (InvalidTag, ValueError):  # ValueError: it is no base64, or too short
                    break
        raise CannotOpen(f"no master key here opens what the master key {name} wrapped: see PORTRAIT_MASTER_KEY")

    def opens(self, wrapped: str) -> bool:
        """Whether the key that wrapped it is among these."""
        return wrapped.partition(".")[0] in self.names

    def is_newest(self, wrapped: str) -> bool:
        """Whether it was wrapped by the first key."""
        return wrapped.partition(".")[0] == self.names[0]


def written_key(key: bytes) -> str:
    """A master key as people keep it: 43 characters."""
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def _read_key(word: str) -> bytes:
    try:
        key = base64.b64decode(word.rstrip("=").translate(_ALPHABETS) + "=", altchars=b"-_", validate=True)
    except ValueError:  # also what is not ASCII
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError("a master key is 43 characters, as `python -m bot keys new` prints it")
    return key


def _name(key: bytes) -> str:
    return hashlib.sha256(b"name" + key).hexdigest()[:8]
