"""The catalogue of models: what each is, where it comes from, what its licence permits, and whether it is there.

All facts stand in `catalogue.json`. A model lies in `<models folder>/<id>/`, its files under the catalogue's names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from engine.errors import MissingWeights

CATALOGUE_FILE = Path(__file__).with_name("catalogue.json")
DEFAULT_SET = "sd15"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Licence(_Entry):
    """`commercial`: may a bot that takes money use it. "unclear" means that we could not read its terms."""

    name: str
    url: str
    commercial: Literal["yes", "no", "unclear"]
    terms: str


class Source(_Entry):
    """`hub` "own": no client can fetch it, `repo` says where it is published; "package": it comes with pip.

    `folder` is where the files lie inside the repository; `whole`: all of the repository is fetched.
    """

    hub: Literal["huggingface", "modelscope", "own", "package"]
    repo: str
    revision: str = "main"
    folder: str = ""
    whole: bool = False


class ModelFile(_Entry):
    """`bytes` and `sha256` only where they are known for sure."""

    path: str
    bytes: int | None = None
    sha256: str | None = None


class Model(_Entry):
    id: str
    role: str
    source: Source
    files: tuple[ModelFile, ...]
    about_mib: int
    licence: Licence
    note: str = ""

    @property
    def is_on_a_hub(self) -> bool:
        return self.source.hub in {"huggingface", "modelscope"}

    @property
    def size_is_exact(self) -> bool:
        return all(file.bytes is not None for file in self.files)

    def folder(self, models_dir: Path) -> Path:
        """Where its files belong; of a model that pip brings, its package."""
        if self.source.hub == "package":
            spec = find_spec(self.source.repo)
            if spec is not None and spec.origin is not None:
                return Path(spec.origin).parent
        return models_dir / self.id

    def missing(self, models_dir: Path) -> tuple[str, ...]:
        """Names of its files that are not there or have another size than they should."""
        folder = self.folder(models_dir)
        return tuple(file.path for file in self.files if not _is_there(folder / file.path, file.bytes))

    def remedy(self) -> str:
        """What to do about missing files, as the end of a sentence."""
        if self.source.hub == "package":
            return f"run `pip install {self.source.repo}`"
        if self.source.hub == "own":
            return (
                f"get {', '.join(file.path for file in self.files)} from {self.source.repo} and run"
                f" `python -m engine models fetch {self.id} --from FOLDER`"
            )
        return f"run `python -m engine models fetch {self.id}`"


class Catalogue(_Entry):
    sets: dict[str, tuple[str, ...]]
    models: tuple[Model, ...]

    def model(self, model_id: str) -> Model:
        """Raises KeyError with the known ids."""
        for model in self.models:
            if model.id == model_id:
                return model
        raise KeyError(f"unknown model {model_id!r}: choose from {', '.join(m.id for m in self.models)}")

    def chosen(self, ids: Iterable[str], set_name: str = DEFAULT_SET) -> tuple[Model, ...]:
        """The models of these ids, or of a set when there are none. Raises KeyError for unknown names."""
        if set_name not in self.sets:
            raise KeyError(f"unknown set {set_name!r}: choose from {', '.join(self.sets)}")
        return tuple(self.model(model_id) for model_id in (tuple(ids) or self.sets[set_name]))

    def locate(self, model_id: str, models_dir: Path) -> Path:
        """The folder of a model that is complete. Raises MissingWeights with one sentence that says what to run."""
        model = self.model(model_id)
        missing = model.missing(models_dir)
        if missing:
            folder = model.folder(models_dir)
            raise MissingWeights(f"{model_id} lacks {', '.join(missing)} in {folder}: {model.remedy()}")
        return model.folder(models_dir)

    def locate_file(self, model_id: str, models_dir: Path) -> Path:
        """The first file of a model that is complete: of most, the only one."""
        return self.locate(model_id, models_dir) / self.model(model_id).files[0].path

    def what_is_missing(self, ids: Iterable[str], models_dir: Path) -> str | None:
        """One sentence on all missing models of a list, for the start of a worker; None when nothing is missing."""
        absent = [model for model in self.chosen(ids) if model.missing(models_dir)]
        if not absent:
            return None
        total = sum(model.about_mib for model in absent) / 1024
        names = " ".join(model.id for model in absent)
        return f"{len(absent)} models are missing (about {total:.1f} GiB): run `python -m engine models fetch {names}`"


def default_models_dir() -> Path:
    """The models folder that the environment names (PORTRAIT_MODELS_DIR), else the usual one."""
    return Path(os.environ.get("PORTRAIT_MODELS_DIR") or "data/models")


def load_catalogue(file: Path = CATALOGUE_FILE) -> Catalogue:
    return Catalogue.model_validate_json(file.read_text(encoding="utf-8"))


def _is_there(path: Path, size: int | None) -> bool:
    return path.is_file() and (size is None or path.stat().st_size == size)
