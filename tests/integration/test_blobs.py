"""Every blob store keeps the same promises."""

from __future__ import annotations

import asyncio
import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_worker.contract.blobs import BlobNotFound, BlobStore, open_blobs


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    if request.param == "folder":
        yield open_blobs(f"file://{tmp_path}/blobs")
        return
    pytest.importorskip("s3fs", reason="needs the extra s3")
    moto = pytest.importorskip("moto.server", reason="needs moto[server]")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    wanted = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in wanted.items():
            patch.setenv(name, value)
        import s3fs

        bucket = f"bucket-{secrets.token_hex(4)}"
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
        yield open_blobs(f"s3://{bucket}/some/prefix")
    server.stop()


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o777


async def test_what_is_put_is_got_and_overwritten(store: BlobStore) -> None:
    await store.put("users/u1/photos/a.jpg", b"one")
    await store.put("users/u1/photos/a.jpg", b"two")
    assert await store.get("users/u1/photos/a.jpg") == b"two"
    with await store.open("users/u1/photos/a.jpg") as opened:
        assert [opened.read(2), opened.read(), opened.read()] == [b"tw", b"o", b""]
    await store.put("users/u1/photos/a.jpg", io.BytesIO(b"three"))
    assert await store.get("users/u1/photos/a.jpg") == b"three"
    assert await store.exists("users/u1/photos/a.jpg")
    assert not await store.exists("users/u1/photos")


async def test_what_is_not_there_is_said_to_be_missing(store: BlobStore) -> None:
    await store.put("users/u1/photos/a.jpg", b"one")
    for key in ("users/u1/photos/b.jpg", "users/u1/photos", "nobody"):
        with pytest.raises(BlobNotFound):
            await store.get(key)
        with pytest.raises(BlobNotFound):
            await store.open(key)
    assert await store.keys("nobody") == []
    assert await store.delete_prefix("nobody") == 0


async def test_a_prefix_ends_at_a_slash(store: BlobStore) -> None:
    for key in ("users/u1/a.jpg", "users/u1/sub/b.jpg", "users/u10/c.jpg"):
        await store.put(key, b"x")
    assert await store.keys("users/u1") == ["users/u1/a.jpg", "users/u1/sub/b.jpg"]
    assert await store.delete_prefix("users/u1") == 2
    assert await store.keys("users") == ["users/u10/c.jpg"]
    assert await store.delete_prefix("users/u10/c.jpg") == 1
    assert await store.keys("users") == []


async def test_an_s3_that_is_away_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="needs the extra s3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with pytest.raises(OSError, match="endpoint"):
        await open_blobs("s3://bucket").get("a/b")


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/passwd", "a//b", "", "a/.b", "a\0b"])
async def test_no_key_leads_out_of_the_folder(tmp_path: Path, key: str) -> None:
    store = open_blobs(str(tmp_path / "blobs"))
    reads = (store.get(key), store.open(key), store.exists(key), store.keys(key))
    for action in (*reads, store.put(key, b"x"), store.delete_prefix(key)):
        with pytest.raises(ValueError, match="not a blob key"):
            await action


async def test_a_reader_sees_the_whole_blob_or_none_while_it_is_replaced(tmp_path: Path) -> None:
    store = open_blobs(str(tmp_path / "blobs"))
    contents = [bytes([n]) * 300_000 for n in range(4)]
    await store.put("a/b", contents[0])

    async def replace() -> None:
        for content in contents * 5:
            await store.put("a/b", content)

    replacing = [asyncio.create_task(replace()) for _ in range(3)]
    while not all(task.done() for task in replacing):
        assert await store.get("a/b") in contents
        with await store.open("a/b") as opened:
            pieces = [opened.read(200_000)]
            await asyncio.sleep(0.002)  # it is replaced meanwhile
            assert b"".join([*pieces, opened.read()]) in contents
        assert await store.keys("a") == ["a/b"]
    assert files(tmp_path / "blobs") == ["b"]


async def test_what_a_killed_process_left_half_written_goes_after_an_hour(tmp_path: Path) -> None:
    store = open_blobs(str(tmp_path))
    await store.put("users/u1/photos/p.jpg", b"whole")
    old, new = (tmp_path / "users/u1/photos" / f".unfinished-{name}" for name in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert await store.keys("users") == ["users/u1/photos/p.jpg"]
    assert (old.exists(), new.exists()) == (False, True), "somebody may be writing the new one"


async def test_a_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    await open_blobs(str(tmp_path / "blobs")).put("users/u1/a.jpg", b"x")
    assert mode(tmp_path / "blobs") == 0o700
