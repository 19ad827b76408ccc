"""Fetching through the hubs' own clients, from a stand-in hub on this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from engine.catalogue import Licence, Model, ModelFile, Source
from engine.fetching import FetchFailed, Mirror, fetch
from tests.stand_ins.hub import Hub

LICENCE = Licence(name="MIT", url="https://example.org", commercial="yes", terms="any use")
MIB = 2**20


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The clients may ask the stand-in, and keep what they keep in the test's folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))


def described(hub: str, files: dict[str, bytes], folder: str = "") -> Model:
    return Model(
        id="thing",
        role="test",
        source=Source.model_validate(
            {"hub": hub, "repo": "someone/thing", "revision": "v1.0.0", "folder": folder, "whole": hub == "modelscope"}
        ),
        files=tuple(
            ModelFile(path=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in files.items()
        ),
        about_mib=1,
        licence=LICENCE,
    )


@pytest.mark.parametrize("client", ["huggingface", "modelscope"])
def test_a_download_that_broke_off_is_taken_up_where_it_stopped(tmp_path: Path, client: str) -> None:
    if client == "modelscope":
        pytest.importorskip("modelscope", reason="needs the production extra")
    data = bytes(range(256)) * (12 * MIB // 256)
    model = described(client, {"weights.bin": data})
    with Hub({"weights.bin": data, "sub/config.json": b"{}"}, break_off_after=11 * MIB).running() as hub:
        assert fetch(model, tmp_path, Mirror(huggingface=hub.url, modelscope=hub.url))
        assert not fetch(model, tmp_path, Mirror(huggingface=hub.url, modelscope=hub.url))
    assert (tmp_path / "thing/weights.bin").read_bytes() == data
    ranges = [int(asked.removeprefix("bytes=").rstrip("-")) for _, _, asked in hub.requests if asked]
    assert ranges
    assert min(ranges) >= 10 * MIB
    assert (tmp_path / "thing/sub/config.json").exists() == (client == "modelscope")  # the whole repository


def test_files_of_a_repositorys_folder_come_without_the_folder(tmp_path: Path) -> None:
    model = described("huggingface", {"det.onnx": b"123"}, folder="models/pack")
    with Hub({"models/pack/det.onnx": b"123"}).running() as hub:
        fetch(model, tmp_path, Mirror(huggingface=hub.url))
    assert sorted(path.name for path in (tmp_path / "thing").iterdir()) == ["det.onnx"]


def test_a_file_that_changed_on_the_hub_is_refused(tmp_path: Path) -> None:
    model = described("huggingface", {"det.onnx": b"123"})
    with Hub({"det.onnx": b"124"}).running() as hub, pytest.raises(FetchFailed, match="another sha256"):
        fetch(model, tmp_path, Mirror(huggingface=hub.url))
    assert not (tmp_path / "thing").exists()
