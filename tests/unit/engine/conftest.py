"""Models that several tests share; each is built once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.images import read_photo
from engine.inspection import PhotoFindings, examine
from engine.models.dlib_faces import DlibDetector, DlibFaceId
from engine.types import Photo


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
