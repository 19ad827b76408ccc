"""What is sealed opens with its key, under its name, whole; and in no other way."""

from __future__ import annotations

import secrets
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_worker.contract.folder_blobs import FolderBlobs
from gpu_worker.contract.sealing import (
    CHUNK_BYTES,
    CannotOpen,
    MasterKeys,
    new_key,
    seal,
    unseal,
    unsealed_pieces,
    written_key,
)
from tests.sealed import blobs_of_one_key

NAME = "users/u1/photos/a.jpg"
CHUNK = CHUNK_BYTES + 16
HEAD = len(seal(b"", new_key(), NAME)) - 16


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 5_000_000])
def test_what_is_sealed_opens(size: int) -> None:
    key, data = new_key(), bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    sealed = seal(data, key, NAME)
    assert unseal(sealed, key, NAME) == data
    assert size < 64 or data[:64] not in sealed


def test_the_same_picture_is_never_sealed_alike() -> None:
    key = new_key()
    assert seal(b"picture", key, NAME) != seal(b"picture", key, NAME)


@given(st.binary(min_size=1, max_size=200), st.data())
def test_no_changed_byte_goes_unnoticed(data: bytes, choose: st.DataObject) -> None:
    key = bytes(32)
    sealed = bytearray(seal(data, key, NAME))
    sealed[choose.draw(st.integers(0, len(sealed) - 1))] ^= choose.draw(st.integers(1, 255))
    with pytest.raises(CannotOpen):
        unseal(bytes(sealed), key, NAME)


def test_chunks_cannot_be_dropped_swapped_or_added() -> None:
    key, data = new_key(), b"a" * CHUNK_BYTES + b"b" * CHUNK_BYTES + b"c"
    sealed = seal(data, key, NAME)
    head, first, second, last = sealed[:HEAD], sealed[HEAD:][:CHUNK], sealed[HEAD + CHUNK :][:CHUNK], sealed[-17:]
    assert head + first + second + last == sealed
    dropped, swapped = (head + first + second, head + first + last), head + second + first + last
    for changed in (*dropped, swapped, sealed + last, sealed[:-1], sealed[:40]):
        with pytest.raises(CannotOpen):
            unseal(changed, key, NAME)


def test_a_file_that_was_cut_has_no_end() -> None:
    key = new_key()
    sealed = seal(b"a" * CHUNK_BYTES + b"b", key, NAME)
    with pytest.raises(CannotOpen):
        next(unsealed_pieces(BytesIO(sealed[: HEAD + CHUNK]), key, NAME))
    pieces = unsealed_pieces(BytesIO(sealed[:-1]), key, NAME)
    assert next(pieces) == b"a" * CHUNK_BYTES
    with pytest.raises(CannotOpen):
        next(pieces)


def test_another_key_and_another_name_open_nothing() -> None:
    key = new_key()
    sealed = seal(b"picture", key, NAME)
    for wrong_key, name in ((new_key(), NAME), (key, "users/u2/photos/a.jpg")):
        with pytest.raises(CannotOpen):
            unseal(sealed, wrong_key, name)


def test_a_plain_picture_is_not_taken_for_a_sealed_one() -> None:
    with pytest.raises(CannotOpen, match="not sealed"):
        unseal(b"\xff\xd8 a picture", new_key(), NAME)


def test_the_newest_master_key_wraps_and_the_older_ones_still_unwrap() -> None:
    old, new, key = new_key(), new_key(), new_key()
    wrapped = MasterKeys((old,)).wrap(key)
    both = MasterKeys.read(f"{written_key(new)},\n{written_key(old)}")
    assert both.unwrap(wrapped) == key
    assert not both.is_newest(wrapped)
    assert MasterKeys((new,)).unwrap(both.wrap(key)) == key
    with pytest.raises(CannotOpen, match="PORTRAIT_MASTER_KEY"):
        MasterKeys((new,)).unwrap(wrapped)


def test_a_wrapped_key_tells_nothing_and_cannot_be_changed() -> None:
    master, key = MasterKeys((new_key(),)), new_key()
    wrapped = master.wrap(key)
    assert written_key(key) not in wrapped
    changed = wrapped[:-4] + ("AAAA" if wrapped[-4:] != "AAAA" else "BBBB")
    with pytest.raises(CannotOpen):
        master.unwrap(changed)


@pytest.mark.parametrize("text", ["", " \n", "short", "a" * 42, "a" * 45, "ü" * 43, written_key(bytes(32)) + " x"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="master key"):
        MasterKeys.read(text)


def test_a_key_made_by_openssl_is_read() -> None:
    assert MasterKeys.read("+/" * 21 + "8=\n") == MasterKeys.read("-_" * 21 + "8")


async def test_blobs_of_users_are_sealed_and_templates_are_not(tmp_path: Path) -> None:
    stored = FolderBlobs(tmp_path)
    blobs = blobs_of_one_key(stored, new_key())
    for key in (NAME, "templates/a.jpg"):
        await blobs.put(key, b"picture")
        assert await blobs.get(key) == b"picture"
        with await blobs.open(key) as opened:
            assert opened.read() == b"picture"
    assert b"picture" not in await stored.get(NAME)
    assert await stored.get("templates/a.jpg") == b"picture"
    assert await blobs.exists(NAME)
    assert await blobs.keys("users") == [NAME]
    assert await blobs.delete_prefix("users/u1") == 1


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 7])
@pytest.mark.parametrize("piece", [100_000, CHUNK_BYTES, CHUNK_BYTES + 1, 10 * CHUNK_BYTES])
async def test_a_large_blob_comes_and_goes_in_pieces(tmp_path: Path, size: int, piece: int) -> None:
    blobs = blobs_of_one_key(FolderBlobs(tmp_path), new_key())
    data = secrets.token_bytes(size)
    await blobs.put(NAME, BytesIO(data))
    assert await blobs.get(NAME) == data
    with await blobs.open(NAME) as opened:
        assert b"".join(iter(lambda: opened.read(piece), b"")) == data
