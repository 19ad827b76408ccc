"""Which photo is fused into the template first, and with what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from engine.config import PortraitConfig
from engine.errors import FusionFailed
from engine.looks import Look
from engine.parsing import parse_by_landmarks
from engine.portrait_steps import TRIAL_WIDTH, WORTH, Steps
from engine.progress import silent
from engine.stages.reference import Reference
from engine.subject import Subject
from engine.types import Embedding, Face, HeadPose, Rgb
from tests.unit.engine.test_landmark_fusion import face_of, seen_head
from tests.unit.engine.test_portrait_stages import CountingFaceId, Seeing

FACE = replace(face_of(seen_head(0)), pose=HeadPose(0, 0, 0))


class Levels(CountingFaceId):
    """Every picture shows who its level says."""

    def embed(self, rgb: Rgb, face: Face) -> Embedding:
        return np.array([int(rgb[0, 0, 0]) / 100], np.float32)


class Painting:
    """Fuses by painting the picture in the photo's level. Some photos cannot be fused, some look like others then."""

    def __init__(self, broken: Sequence[int] = (), shown: dict[int, int] | None = None) -> None:
        self.broken, self.shown, self.widths = broken, shown or {}, list[tuple[int, int]]()

    def __call__(self, picture: Rgb, face: Face, reference: Rgb, reference_face: Face) -> Rgb:
        level = int(reference[0, 0, 0])
        self.widths.append((level, picture.shape[1]))
        if level in self.broken:
            raise FusionFailed("turned too far")
        return np.full_like(picture, self.shown.get(level, level))


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def photo(level: int, yaw: float) -> Reference:
    """The further its head is turned, the less it suits the template."""
    face = replace(FACE, pose=HeadPose(yaw, 0, 0))
    return Reference.of(np.full((600, 600, 3), level, np.uint8), face, np.array([level / 100], np.float32))


def first_fusion(
    fuser: Painting, photos: Sequence[Reference], beside: ThreadPoolExecutor, **changes: object
) -> tuple[int, Look, Steps]:
    """The chosen photo's level, the picture with its face, and who did it."""
    profile = SimpleNamespace(
        fuser=fuser, detector=Seeing([]), parse=parse_by_landmarks, recogniser=Levels(), ip_adapter=None
    )
    config = PortraitConfig().with_changes(**{"fusion_before_ratio": 1.0, **changes})
    steps = Steps(profile, config, silent, beside)  # type: ignore[arg-type]
    subject = Subject(tuple(photos), FACE, None, "", tuple(p.embedding for p in photos), ())
    rgb = np.full((600, 600, 3), 128, np.uint8)
    before = Look(rgb, FACE, parse_by_landmarks(rgb, FACE), profile.recogniser)
    chosen, fused = steps.first_fusion(before, subject, steps.tries(before, subject))
    return int(chosen.rgb[0, 0, 0]), fused, steps


def test_the_photo_that_suits_best_is_fused_once_at_full_size_and_others_small(beside: ThreadPoolExecutor) -> None:
    fuser = Painting()
    chosen, fused, steps = first_fusion(fuser, [photo(102, 0), photo(100, 1), photo(104, 2)], beside)
    assert chosen == 102
    assert (fused.rgb == 102).all()
    small = round(600 * TRIAL_WIDTH / FACE.width)
    assert sorted(fuser.widths) == [(100, small), (102, 600), (104, small)]
    assert steps.notes == []


def test_a_photo_whose_fusion_is_more_like_the_others_is_taken_at_full_size(beside: ThreadPoolExecutor) -> None:
    fuser = Painting(shown={100: 180})
    chosen, fused, _ = first_fusion(fuser, [photo(100, 0), photo(102, 1), photo(104, 2)], beside)
    assert chosen == 102
    assert fused.rgb.shape == (600, 600, 3)
    assert (fused.rgb == 102).all()
    assert (102, 600) in fuser.widths


def test_what_suits_counts_beside_likeness(beside: ThreadPoolExecutor) -> None:
    """5 degrees cost 0.05 of worth, of which a part counts: what fusions differ by in likeness must be more."""
    assert WORTH < 1
    assert first_fusion(Painting(shown={100: 101, 104: 103}), [photo(100, 0), photo(104, 5)], beside)[0] == 100
    assert first_fusion(Painting(shown={100: 110}), [photo(100, 0), photo(104, 5)], beside)[0] == 104


def test_a_photo_that_cannot_be_fused_is_not_taken_and_where_none_can_it_is_said(beside: ThreadPoolExecutor) -> None:
    photos = [photo(100, 0), photo(102, 1)]
    chosen, fused, steps = first_fusion(Painting(broken=[100]), photos, beside)
    assert (chosen, steps.notes) == (102, [])
    assert (fused.rgb == 102).all()
    for given in (photos, photos[:1]):
        chosen, fused, steps = first_fusion(Painting(broken=[100, 102]), given, beside)
        assert chosen == 100
        assert (fused.rgb == 128).all()
        assert steps.notes == ["face fusion skipped: turned too far"]


def test_a_part_of_the_fusion_or_none_of_it(beside: ThreadPoolExecutor) -> None:
    photos = [photo(100, 0), photo(102, 1)]
    _, fused, _ = first_fusion(Painting(), photos, beside, fusion_before_ratio=0.5)
    assert {100, 128} < set(np.unique(fused.rgb))
    fuser = Painting()
    _, fused, _ = first_fusion(fuser, photos, beside, fusion_before=False)
    assert (fused.rgb == 128).all()
    assert fuser.widths == []
