"""The catalogue and its commands, with a local folder in the place of the hubs."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path

import pytest

from engine import models_cli
from engine.catalogue import Catalogue, Licence, Model, ModelFile, Source, load_catalogue
from engine.errors import MissingWeights
from engine.fetching import PARTIAL, FetchFailed, Mirror, fetch

LICENCE = Licence(name="MIT", url="https://example.org", commercial="yes", terms="any use")


def entry(
    model_id: str, files: dict[str, bytes], hub: str = "huggingface", whole: bool = False, hashed: bool = True
) -> Model:
    listed = tuple(
        ModelFile(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest() if hashed else None)
        for path, data in files.items()
    )
    source = Source.model_validate({"hub": hub, "repo": f"someone/{model_id}", "whole": whole})
    return Model(id=model_id, role="test", source=source, files=listed, about_mib=1, licence=LICENCE)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def command(monkeypatch: pytest.MonkeyPatch, catalogue: Catalogue, *words: str) -> int:
    monkeypatch.setattr(models_cli, "load_catalogue", lambda: catalogue)
    parser = argparse.ArgumentParser()
    models_cli.add_parser(parser.add_subparsers())
    return models_cli.run(parser.parse_args(["models", *words]))


def test_the_catalogue_names_licence_and_origin_of_every_model() -> None:
    catalogue = load_catalogue()
    assert len({model.id for model in catalogue.models}) == len(catalogue.models)
    for model in catalogue.models:
        assert model.files, model.id
        assert model.licence.url.startswith("https://"), model.id
        assert model.licence.terms, model.id
        if model.source.hub == "huggingface":
            assert re.fullmatch(r"[0-9a-f]{40}", model.source.revision), f"{model.id} is not pinned to a commit"
        for file in model.files:
            assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256), model.id


def test_every_set_names_known_models_and_the_clean_one_nothing_that_forbids_paid_use() -> None:
    catalogue = load_catalogue()
    for name, ids in catalogue.sets.items():
        assert catalogue.chosen([], name) == tuple(catalogue.model(model_id) for model_id in ids)
    assert all(model.licence.commercial != "no" for model in catalogue.chosen([], "sd15-clean"))
    assert catalogue.model("sd15").licence.commercial == "yes"


def test_a_missing_model_is_one_sentence_that_says_what_to_run(tmp_path: Path) -> None:
    catalogue = load_catalogue()
    with pytest.raises(MissingWeights, match=r"run `python -m engine models fetch sd15`"):
        catalogue.locate("sd15", tmp_path)
    with pytest.raises(MissingWeights, match=r"--from FOLDER"):
        catalogue.locate("chilloutmix", tmp_path)
    sentence = catalogue.what_is_missing(["sd15", "buffalo_l"], tmp_path)
    assert sentence == "2 models are missing (about 4.3 GiB): run `python -m engine models fetch sd15 buffalo_l`"


def test_a_complete_model_is_located(tmp_path: Path) -> None:
    model = entry("small", {"a.bin": b"12345", "sub/b.bin": b"xyz"})
    catalogue = Catalogue(sets={"sd15": ("small",)}, models=(model,))
    write(tmp_path / "small", {"a.bin": b"12345", "sub/b.bin": b"xyz"})
    assert catalogue.locate_file("small", tmp_path) == tmp_path / "small" / "a.bin"
    assert catalogue.what_is_missing([], tmp_path) is None


def test_a_file_cut_short_counts_as_missing(tmp_path: Path) -> None:
    model = entry("small", {"a.bin": b"12345"})
    write(tmp_path / "small", {"a.bin": b"123"})
    assert model.missing(tmp_path) == ("a.bin",)


@pytest.mark.parametrize("layout", ["small/a.bin", "someone/small/a.bin", "a.bin"])
def test_fetching_from_a_folder_takes_the_layouts_that_people_have(tmp_path: Path, layout: str) -> None:
    model = entry("small", {"a.bin": b"12345"})
    mirror = write(tmp_path / "mirror", {layout: b"12345"})
    assert fetch(model, tmp_path / "models", Mirror(mirror))
    assert (tmp_path / "models/small/a.bin").read_bytes() == b"12345"
    assert not (tmp_path / "models" / PARTIAL / "small").exists()
    assert not fetch(model, tmp_path / "models", Mirror(mirror))  # nothing is fetched twice


def test_a_whole_repository_brings_the_files_that_the_catalogue_does_not_list(tmp_path: Path) -> None:
    model = entry("folder", {"configuration.json": b"{}"}, hub="modelscope", whole=True)
    mirror = write(tmp_path / "mirror/someone/folder", {"configuration.json": b"{}", "ms_wrapper.py": b"x = 1"})
    fetch(model, tmp_path / "models", Mirror(mirror.parents[1]))
    assert (tmp_path / "models/folder/ms_wrapper.py").is_file()


def test_a_damaged_file_never_reaches_its_place(tmp_path: Path) -> None:
    model = entry("small", {"a.bin": b"12345"})
    mirror = write(tmp_path / "mirror", {"a.bin": b"1234X"})
    with pytest.raises(FetchFailed, match="another sha256"):
        fetch(model, tmp_path / "models", Mirror(mirror))
    assert not (tmp_path / "models/small").exists()
    write(mirror, {"a.bin": b"12345"})
    assert fetch(model, tmp_path / "models", Mirror(mirror))  # the damaged copy is not taken up again


def test_a_model_that_no_client_can_fetch_says_where_it_is_published(tmp_path: Path) -> None:
    model = entry("mix", {"a.bin": b"12345"}, hub="own")
    with pytest.raises(FetchFailed, match=r"get a\.bin from someone/mix"):
        fetch(model, tmp_path, Mirror())
    assert fetch(model, tmp_path, Mirror(write(tmp_path / "downloads", {"a.bin": b"12345"})))


def test_an_unreachable_hub_is_a_sentence_and_does_not_stop_the_other_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, fine = entry("broken", {"a.bin": b"1"}), entry("fine", {"b.bin": b"2"})
    catalogue = Catalogue(sets={"sd15": ("broken", "fine")}, models=(broken, fine))
    mirror = write(tmp_path / "mirror", {"b.bin": b"2"})
    status = command(monkeypatch, catalogue, "fetch", "--dir", str(tmp_path / "m"), "--from", str(mirror))
    assert status == 1
    assert "broken: a.bin is not in" in capsys.readouterr().err
    assert (tmp_path / "m/fine/b.bin").is_file()
    # Without a mirror the hub's client is asked; it is offline in tests.
    assert command(monkeypatch, catalogue, "fetch", "broken", "--dir", str(tmp_path / "m")) == 1
    assert "broken could not be fetched" in capsys.readouterr().err


def test_check_says_in_one_sentence_per_model_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, gone = entry("here", {"a.bin": b"12345"}), entry("gone", {"b.bin": b"2"})
    catalogue = Catalogue(sets={"sd15": ("here", "gone")}, models=(here, gone))
    write(tmp_path / "here", {"a.bin": b"12345"})
    assert command(monkeypatch, catalogue, "check", "--dir", str(tmp_path)) == 1
    assert capsys.readouterr().out.splitlines() == [
        "here: complete",
        "gone: lacks b.bin: run `python -m engine models fetch gone`",
    ]
    assert command(monkeypatch, catalogue, "check", "here", "--dir", str(tmp_path)) == 0
    write(tmp_path / "here", {"a.bin": b"1234X"})
    assert command(monkeypatch, catalogue, "check", "here", "--hashes", "--dir", str(tmp_path)) == 1
    assert "another sha256" in capsys.readouterr().out


def test_list_prints_licence_and_what_it_permits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    models_cli.add_parser(parser.add_subparsers())
    assert models_cli.run(parser.parse_args(["models", "list", "--dir", str(tmp_path)])) == 0
    table = capsys.readouterr().out
    assert "buffalo_l: face detection, landmarks, FaceID, 320 MiB, not here [sd15]" in table
    assert "commercial use: no (non-commercial research only" in table
    assert models_cli.run(parser.parse_args(["models", "list", "--json", "--dir", str(tmp_path)])) == 0
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    assert rows["sd15"]["revision"] == load_catalogue().model("sd15").source.revision
    assert rows["controlnet-color"]["licence"]["commercial"] == "unclear"


def test_unknown_names_are_refused_with_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    models_cli.add_parser(parser.add_subparsers())
    assert models_cli.run(parser.parse_args(["models", "check", "sd51", "--dir", str(tmp_path)])) == 2
    assert "unknown model 'sd51': choose from sd15" in capsys.readouterr().err
