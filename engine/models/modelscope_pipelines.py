"""Opening a ModelScope pipeline on a folder that is already here, and how pictures go in and come out.

A hub id would ask the hub at every start, even when everything is cached; a folder never does. Pictures go in as PIL
(an array would be taken as BGR) and come out as BGR arrays.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.errors import EngineError, MissingWeights
from engine.models import torchvision_shim
from engine.types import Rgb

Pipeline = Callable[[Any], dict[str, Any]]


def open_pipeline(task: str, folder: Path, device: str, trust_remote_code: bool = False) -> Pipeline:
    """The pipeline that the folder's `configuration.json` names.

    `trust_remote_code` lets it run code that lies in the folder: only for a repository whose code was read. Raises
    MissingWeights when the folder or a package that the pipeline needs is absent, EngineError when it wants to run code
    of its own and may not.
    """
    configuration = folder / "configuration.json"
    if not configuration.is_file():
        raise MissingWeights(f"{folder} is no ModelScope model: run `python -m engine models fetch {folder.name}`")
    if json.loads(configuration.read_text(encoding="utf-8")).get("allow_remote") and not trust_remote_code:
        raise EngineError(f"{folder} wants to run code of its own: read it, then allow it in the settings")
    torchvision_shim.install()
    where = "cpu" if device == "cpu" else device.replace("cuda", "gpu")
    try:
        opened = _trusted(task, folder, where) if trust_remote_code else _opened(task, str(folder), where)
        return one_at_a_time(opened)
    except ImportError as error:
        raise MissingWeights(f"{folder.name} needs more packages ({error}): {_extra(folder)}") from error


def one_at_a_time(pipeline: Pipeline) -> Pipeline:
    """The pipeline for several threads: some keep a picture's state in themselves between two of their steps."""
    busy = threading.Lock()

    def called(given: Any) -> dict[str, Any]:
        with busy:
            return pipeline(given)

    return called


def to_picture(rgb: Rgb) -> Image.Image:
    return Image.fromarray(rgb)


def to_rgb(output: dict[str, Any]) -> Rgb:
    """The picture of a pipeline's answer, which is BGR."""
    return np.ascontiguousarray(output["output_img"][..., ::-1], np.uint8)


def _trusted(task: str, folder: Path, device: str) -> Pipeline:
    try:
        return _opened(task, str(folder), device, trust_remote_code=True)
    except RuntimeError as error:
        if "trust_remote_code" not in str(error):
            raise
    # Release 1.40 forgets the permission on its way to a pipeline class of the repository: the model is opened first.
    from modelscope.models import Model

    return _opened(task, Model.from_pretrained(str(folder), device=device, trust_remote_code=True), device)


def _opened(task: str, model: Any, device: str, **more: bool) -> Pipeline:
    from modelscope.pipelines import pipeline

    opened: Pipeline = pipeline(task, model=model, device=device, **more)
    return opened


def _extra(folder: Path) -> str:
    extra = "modelscope-tf" if (folder / "detector.pb").is_file() else "modelscope"
    return f"install the extra `{extra}` of this project"
