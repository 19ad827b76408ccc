"""Brings the files of a catalogue's model to their place: by the hub's own client, or from a folder that holds them.

A model is gathered in `<models folder>/.partial/<id>` first, where an interrupted download is taken up again; only
files of the right size and hash are moved to their place.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from engine.catalogue import Model, ModelFile
from engine.errors import EngineError

log = logging.getLogger(__name__)

PARTIAL = ".partial"
CLIENT_FOLDERS = {".cache", "._____temp", ".lock", ".mdl", ".msc", ".git"}  # what the hubs' clients keep for themselves


class FetchFailed(EngineError):
    """A model could not be brought to its place. The message is one sentence that says why."""


@dataclass(frozen=True)
class Mirror:
    """Where to fetch from instead of the hubs: a folder (complete, nothing is asked of a hub), or other addresses."""

    folder: Path | None = None
    huggingface: str | None = None
    modelscope: str | None = None


def fetch(model: Model, models_dir: Path, mirror: Mirror) -> bool:
    """Fetches what is missing of a model; False when nothing was. Raises FetchFailed, and what hub clients raise."""
    missing = [file for file in model.files if file.path in model.missing(models_dir)]
    if not missing:
        return False
    if model.source.hub == "package":
        raise FetchFailed(f"{model.id} comes with a package: {model.remedy()}")
    gathered = models_dir / PARTIAL / model.id
    gathered.mkdir(parents=True, exist_ok=True)
    if mirror.folder is not None:
        root = _copied(model, missing, mirror.folder, gathered)
    elif model.source.hub == "own":
        raise FetchFailed(f"{model.id} is not on a hub: {model.remedy()}")
    else:
        _require_space(model, models_dir)
        by_hub = _from_huggingface if model.source.hub == "huggingface" else _from_modelscope
        root = by_hub(model, missing, gathered, mirror)
    for file in missing:
        verify(root / file.path, file)
    _move_into_place(root, model.folder(models_dir))
    shutil.rmtree(gathered, ignore_errors=True)
    return True


def verify(path: Path, file: ModelFile) -> None:
    """Raises FetchFailed unless the file has the size and the hash of the catalogue; a wrong one is removed if it lies
    among the partial downloads, so that the next attempt starts afresh."""
    if not path.is_file():
        raise FetchFailed(f"{file.path} is not in the repository")
    wrong = None
    if file.bytes is not None and path.stat().st_size != file.bytes:
        wrong = f"{file.path} has {path.stat().st_size} bytes instead of {file.bytes}"
    elif file.sha256 is not None and sha256_of(path) != file.sha256:
        wrong = f"{file.path} has another sha256 than the catalogue"
    if wrong is not None:
        if PARTIAL in path.parts:
            path.unlink()
        raise FetchFailed(wrong)


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _copied(model: Model, missing: list[ModelFile], folder: Path, gathered: Path) -> Path:
    """A mirror holds `<id>/<path>`, `<repository>/<path>` or simply the file's name."""
    homes = [folder / model.id, folder / model.source.repo, folder]
    if model.source.whole:
        home = next((h for h in homes if all((h / file.path).is_file() for file in missing)), None)
        if home is None:
            raise FetchFailed(f"{model.id} is not in {folder}: neither {homes[0]} nor {homes[1]} holds its files")
        shutil.copytree(home, gathered, dirs_exist_ok=True)
        return gathered
    for file in missing:
        places = [*(home / file.path for home in homes), folder / Path(file.path).name]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise FetchFailed(f"{model.id}: {file.path} is not in {folder}")
        (gathered / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(found, gathered / file.path)
    return gathered


def _from_huggingface(model: Model, missing: list[ModelFile], gathered: Path, mirror: Mirror) -> Path:
    from huggingface_hub import hf_hub_download

    source = model.source
    for file in missing:
        name = f"{source.folder}/{file.path}" if source.folder else file.path
        hf_hub_download(source.repo, name, revision=source.revision, local_dir=gathered, endpoint=mirror.huggingface)
    return gathered / source.folder


def _from_modelscope(model: Model, missing: list[ModelFile], gathered: Path, mirror: Mirror) -> Path:
    from modelscope.hub.snapshot_download import snapshot_download

    source = model.source
    wanted = None if source.whole else [file.path for file in missing]
    snapshot_download(
        source.repo,
        revision=source.revision,
        local_dir=str(gathered),
        allow_file_pattern=wanted,
        endpoint=mirror.modelscope,
    )
    return gathered


def _require_space(model: Model, models_dir: Path) -> None:
    free = shutil.disk_usage(models_dir).free / 2**20
    if free < model.about_mib * 1.05:
        raise FetchFailed(f"{model.id} needs about {model.about_mib} MiB, {models_dir} has {free:.0f} MiB free")


def _move_into_place(root: Path, folder: Path) -> None:
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.is_dir() or CLIENT_FOLDERS.intersection(relative.parts):
            continue
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    log.info("models: %s complete", folder.name)
