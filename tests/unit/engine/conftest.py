"""Models that several tests share; each is built once a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.images import read_photo
from engine.inspection import PhotoFindings, examine
from engine.models.dlib_faces import DlibDetector, DlibFaceId
from engine.types import Photo, SubjectFiles
from tests.unit.engine.subjects import write_subject

if TYPE_CHECKING:
    from engine.diffusion import Diffusion


@pytest.fixture(scope="session")
def detector() -> DlibDetector:
    return DlibDetector()


@pytest.fixture(scope="session")
def recogniser() -> DlibFaceId:
    return DlibFaceId()


@pytest.fixture(scope="session")
def selfie(shared_data: Path) -> Callable[[str], Photo]:
    """Reads "a/img16" and the like."""
    return lambda name: read_photo(shared_data / "selfies" / f"{name}.jpg")


@pytest.fixture(scope="session")
def examined(
    selfie: Callable[[str], Photo], detector: DlibDetector, recogniser: DlibFaceId
) -> Callable[[str], PhotoFindings]:
    """The findings on a selfie, made once a session."""
    known: dict[str, PhotoFindings] = {}

    def find(name: str) -> PhotoFindings:
        if name not in known:
            known[name] = examine(selfie(name), detector, recogniser)
        return known[name]

    return find


@pytest.fixture(scope="session")
def people(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory, detector: DlibDetector, recogniser: DlibFaceId
) -> dict[str, SubjectFiles]:
    """Persons a and b as training leaves them, without a LoRA, one photo held out."""
    folder, selfies = tmp_path_factory.mktemp("people"), shared_data / "selfies"
    photos = {"a": ("img17", "img59", "img62"), "b": ("img31", "img29", "img30")}
    return {
        name: write_subject(
            folder / name,
            [selfies / name / f"{photo}.jpg" for photo in of[:2]],
            selfies / name / f"{of[2]}.jpg",
            detector,
            recogniser,
        )
        for name, of in photos.items()
    }


@pytest.fixture
def random_diffusion() -> Iterator[Diffusion]:
    """The small model's networks with random weights, and a check that nobody left a trace in them."""
    import torch
    from transformers import CLIPTokenizer

    from engine.diffusion import Diffusion
    from engine.mini import architecture

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(Path(architecture.__file__).parent / "weights" / "tokenizer")
    text = architecture.new_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    unet, vae = architecture.new_unet(), architecture.new_vae()
    for network in (unet, vae, text):
        network.eval().requires_grad_(False)
    before = {key: value.clone() for key, value in (unet.state_dict() | text.state_dict()).items()}
    yield Diffusion(unet, vae, text, tokenizer, {}, architecture.SCHEDULER)
    after = unet.state_dict() | text.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
