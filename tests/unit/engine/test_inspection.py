"""The table of inspection: real photos, every mix of them, and photos made bad on purpose."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pytest
from skimage.data import astronaut, coffee

from engine.config import PhotoLimits
from engine.images import fitted
from engine.inspection import PhotoFindings, examine, inspect_photos, judge, unreadable
from engine.models.dlib_faces import DlibDetector, DlibFaceId
from engine.stages import quality
from engine.types import Photo, Points, Reason, Rgb, Verdict

A = ["a/img16", "a/img17", "a/img59", "a/img61", "a/img62"]
B = ["b/img29", "b/img30", "b/img31", "b/img32", "b/img33"]
C = ["c/img13", "c/img14", "c/img15", "c/img57", "c/img58"]
STRANGERS = [f"strangers/img{n}" for n in range(20, 26)]
FAMILY = {
    "dad": [f"family/Family1-Dad{n}" for n in (1, 2, 3)],
    "daughter": [f"family/Family1-Daughter{n}" for n in (1, 2, 3)],
    "mom": [f"family/Family1-Mom{n}" for n in (1, 2)],
    "son": [f"family/Family1-Son{n}" for n in (1, 2)],
    "lady": [f"family/Family2-Lady{n}" for n in (1, 2)],
    "man": [f"family/Family2-Man{n}" for n in (1, 2)],
}
GROUPS = ["family/detection4", "family/detection5", "family/detection6", "family/identification1"]

Examined = Callable[[str], PhotoFindings]
Selfie = Callable[[str], Photo]


def reasons(findings: Sequence[PhotoFindings], recogniser: DlibFaceId) -> list[Reason | None]:
    """Per photo the reason of its refusal; None is usable."""
    reports = judge(findings, recogniser).reports
    return [None if report.is_usable else report.reason for report in reports]


def blurred(rgb: Rgb, sigma_px: float) -> Rgb:
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma_px), np.uint8)


def shaken(rgb: Rgb, length_px: int) -> Rgb:
    return np.asarray(cv2.filter2D(rgb, -1, np.eye(length_px, dtype=np.float32) / length_px), np.uint8)


def exposed(rgb: Rgb, factor: float) -> Rgb:
    return np.clip(rgb.astype(np.float32) * factor, 0, 255).astype(np.uint8)


def scaled(rgb: Rgb, factor: float) -> Rgb:
    return np.asarray(cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)


def turned(rgb: Rgb, degrees: float) -> Rgb:
    height, width = rgb.shape[:2]
    return np.asarray(
        cv2.warpAffine(rgb, cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1), (width, height))
    )


@pytest.mark.parametrize("person", [A, B, C], ids="abc")
def test_five_real_photos_of_one_person_are_all_usable(
    person: list[str], examined: Examined, recogniser: DlibFaceId
) -> None:
    inspection = judge([examined(name) for name in person], recogniser)
    assert [report.verdict for report in inspection.reports] == [Verdict.OK] * 5
    assert inspection.reference is not None


def test_a_stranger_and_a_group_photo_among_five_are_refused(examined: Examined, recogniser: DlibFaceId) -> None:
    """Every person with every stranger and every group photo."""
    for person, stranger, group in itertools.product((A, B, C), STRANGERS, GROUPS):
        found = reasons([examined(name) for name in (stranger, *person[:2], group, *person[2:])], recogniser)
        expected = [Reason.NOT_SAME_PERSON, None, None, Reason.SEVERAL_PEOPLE, None, None, None]
        assert found == expected, (person[0], stranger, group)


def test_a_person_with_few_photos_stands_out_from_two_to_twenty_photos(
    examined: Examined, recogniser: DlibFaceId
) -> None:
    """Majorities of every size against every smaller number of photos of each other person."""
    people = [A, B, C, *FAMILY.values(), STRANGERS[:2], STRANGERS[2:4], STRANGERS[4:]]
    for most, others in itertools.permutations(people, 2):
        for many, few in itertools.product(range(2, len(most) + 1), range(1, len(others) + 1)):
            if many <= few:
                continue
            found = reasons([examined(name) for name in (*others[:few], *most[:many])], recogniser)
            expected = [Reason.NOT_SAME_PERSON] * few + [None] * many
            assert found == expected, (most[:many], others[:few])


def test_several_strangers_at_once_do_not_shift_the_judgement(examined: Examined, recogniser: DlibFaceId) -> None:
    """The reference compares to the mean of all embeddings; six strangers would move it."""
    strangers = [*STRANGERS[::2], "family/Family1-Dad1", "family/Family2-Lady1"]
    for person in (A, B, C):
        found = reasons([examined(name) for name in (*strangers, *person)], recogniser)
        assert found == [Reason.NOT_SAME_PERSON] * 5 + [None] * 5


def test_two_halves_are_both_refused_whatever_their_order(examined: Examined, recogniser: DlibFaceId) -> None:
    for names in ([*A, *B], [*B, *A], [A[0], B[0]], [x for pair in zip(A, C, strict=True) for x in pair]):
        assert set(reasons([examined(name) for name in names], recogniser)) == {Reason.NOT_SAME_PERSON}


def test_a_bare_majority_is_warned_about(examined: Examined, recogniser: DlibFaceId) -> None:
    reports = judge([examined(name) for name in (*A, *B[:4])], recogniser).reports
    assert [(r.verdict, r.reason) for r in reports[:5]] == [(Verdict.WARNING, Reason.NOT_SAME_PERSON)] * 5
    assert not any(r.is_usable for r in reports[5:])


def test_the_order_of_the_photos_changes_nothing(examined: Examined, recogniser: DlibFaceId) -> None:
    names = [*A, *STRANGERS[:3], *FAMILY["dad"], GROUPS[1]]
    whole = {r.file: (r.verdict, r.reason) for r in judge([examined(n) for n in names], recogniser).reports}
    rng = np.random.default_rng(7)
    for _ in range(10):
        shuffled = [names[i] for i in rng.permutation(len(names))]
        again = {r.file: (r.verdict, r.reason) for r in judge([examined(n) for n in shuffled], recogniser).reports}
        assert again == whole


# Sizes are shares of the face's width, so that a row means the same for every photo.
BAD: list[tuple[str, Callable[[Rgb, float], Rgb], Reason | None]] = [
    ("hardly soft", lambda rgb, face: blurred(rgb, 0.004 * face), None),
    ("soft", lambda rgb, face: blurred(rgb, 0.02 * face), Reason.BLURRED),
    ("very soft", lambda rgb, face: blurred(rgb, 0.05 * face), Reason.BLURRED),
    ("shapeless", lambda rgb, face: blurred(rgb, 0.25 * face), Reason.BLURRED),
    ("shaken", lambda rgb, face: shaken(rgb, int(0.12 * face)), Reason.BLURRED),
    ("dim", lambda rgb, face: exposed(rgb, 0.6), None),
    ("dark", lambda rgb, face: exposed(rgb, 0.18), Reason.TOO_DARK),
    ("black", lambda rgb, face: exposed(rgb, 0.04), Reason.TOO_DARK),
    ("burnt out", lambda rgb, face: exposed(rgb, 4.0), Reason.TOO_BRIGHT),
    ("washed out", lambda rgb, face: (rgb * 0.25 + 190).astype(np.uint8), Reason.TOO_BRIGHT),
    ("small enough", lambda rgb, face: scaled(rgb, 110 / face), None),
    ("too small", lambda rgb, face: scaled(rgb, 38 / face), Reason.TOO_SMALL),
    ("tilted", lambda rgb, face: turned(rgb, 28), None),
    ("lying", lambda rgb, face: np.ascontiguousarray(np.rot90(rgb)), None),
]


@pytest.mark.parametrize(("name", "spoil", "expected"), BAD, ids=[row[0].replace(" ", "-") for row in BAD])
def test_a_photo_made_bad_gets_the_right_reason(
    name: str,
    spoil: Callable[[Rgb, float], Rgb],
    expected: Reason | None,
    examined: Examined,
    detector: DlibDetector,
    recogniser: DlibFaceId,
) -> None:
    for person in (A, B, C):
        good = examined(person[1])
        assert good.photo is not None
        rgb, scale = fitted(good.photo.rgb, 1200)
        bad = examine(Photo(name, spoil(rgb, scale * good.faces[0].face.width)), detector, recogniser)
        others = [examined(other) for other in (person[0], *person[2:])]
        assert reasons([*others, bad], recogniser) == [None] * 4 + [expected], person[1]


# What is held before a face, drawn on its 68 points p with the face's width w.
COVERS: list[tuple[str, Callable[[Rgb, Points, float], None]]] = [
    (
        "sunglasses",
        lambda rgb, p, w: disc(rgb, (p[36:42].mean(0), p[42:48].mean(0)), (0.19 * w, 0.15 * w), (18, 16, 20)),
    ),
    ("mask", lambda rgb, p, w: patch(rgb, [*p[2:15], p[28]], (150, 190, 215))),
    ("hand", lambda rgb, p, w: disc(rgb, (p[48:60].mean(0),), (0.32 * w, 0.2 * w), (196, 150, 130))),
    (
        "phone",
        lambda rgb, p, w: patch(
            rgb, p[57] + np.array([(-0.35, -0.3), (0.2, -0.3), (0.2, 0.6), (-0.35, 0.6)]) * w, (25, 25, 28)
        ),
    ),
]


def disc(rgb: Rgb, centres: Sequence[np.ndarray], axes: tuple[float, float], colour: tuple[int, int, int]) -> None:
    for x, y in centres:
        cv2.ellipse(rgb, ((float(x), float(y)), (2 * axes[0], 2 * axes[1]), 0.0), colour, -1)


def patch(rgb: Rgb, corners: Sequence[np.ndarray], colour: tuple[int, int, int]) -> None:
    cv2.fillConvexPoly(rgb, cv2.convexHull(np.round(corners).astype(np.int32)), colour)


@pytest.mark.parametrize(("name", "cover"), COVERS, ids=[row[0] for row in COVERS])
def test_a_covered_face_is_refused_for_that(
    name: str,
    cover: Callable[[Rgb, Points, float], None],
    examined: Examined,
    detector: DlibDetector,
    recogniser: DlibFaceId,
) -> None:
    found = 0
    for person in (A, B, C):
        good = examined(person[0])
        assert good.photo is not None
        face = good.faces[0].face
        rgb = good.photo.rgb.copy()
        cover(rgb, face.landmarks, face.width)
        covered = examine(Photo(name, rgb), detector, recogniser)
        [*others, reason] = reasons([*(examined(other) for other in person[1:]), covered], recogniser)
        assert others == [None] * 4
        assert reason in (Reason.OCCLUDED, Reason.NO_FACE)  # HOG does not find every masked face
        found += reason is Reason.OCCLUDED
    assert found, "at least one of the three is found and then refused for what covers it"


def test_beards_glasses_and_fringes_are_no_cover(examined: Examined) -> None:
    everybody = [*A, *B, *C, *STRANGERS, *itertools.chain(*FAMILY.values())]
    told = {name: quality.verdict(examined(name).faces[0].measures, PhotoLimits())[1] for name in everybody}
    assert not [name for name, reason in told.items() if reason is Reason.OCCLUDED]


COPIES: list[tuple[str, Callable[[Rgb], Rgb]]] = [
    ("the same", lambda rgb: rgb.copy()),
    ("smaller", lambda rgb: scaled(rgb, 0.6)),
    ("brighter", lambda rgb: exposed(rgb, 1.15)),
    ("mirrored", lambda rgb: np.ascontiguousarray(rgb[:, ::-1])),
    ("recompressed", lambda rgb: np.asarray(cv2.imdecode(cv2.imencode(".jpg", rgb, [1, 40])[1], 1))),
    ("hardly cropped", lambda rgb: np.ascontiguousarray(rgb[4:-4, 4:-4])),
]


@pytest.mark.parametrize(("name", "copy"), COPIES, ids=[row[0].replace(" ", "-") for row in COPIES])
def test_of_two_copies_the_better_one_stays(
    name: str, copy: Callable[[Rgb], Rgb], examined: Examined, detector: DlibDetector, recogniser: DlibFaceId
) -> None:
    for person in (A, C):
        original = examined(person[3])
        assert original.photo is not None
        again = examine(Photo(name, copy(original.photo.rgb)), detector, recogniser)
        found = reasons([again, *(examined(other) for other in person)], recogniser)
        assert sorted(map(str, found)) == sorted([*["None"] * 5, "duplicate"])
        if name in {"smaller", "hardly cropped"}:
            assert found[0] is Reason.DUPLICATE


def test_pictures_without_a_face_and_broken_files_cost_the_others_nothing(
    examined: Examined, detector: DlibDetector, recogniser: DlibFaceId
) -> None:
    cup = examine(Photo("cup", coffee()), detector, recogniser)
    found = reasons([cup, *(examined(name) for name in A), unreadable("text.jpg")], recogniser)
    assert found == [Reason.NO_FACE, *[None] * 5, Reason.UNREADABLE]


def test_a_passer_by_does_not_matter_even_when_larger_than_the_subject_is_not(
    examined: Examined, detector: DlibDetector, recogniser: DlibFaceId, selfie: Selfie
) -> None:
    """A small stranger in the background is ignored; a large stranger before a small subject is looked past."""
    subject, stranger = selfie(A[3]).rgb, selfie("strangers/img25").rgb
    for large, small in ((subject, stranger), (stranger, subject)):
        scene = scaled(large, 1500 / large.shape[1])
        face = examine(Photo("large", scene), detector, recogniser).faces[0].face
        little = detector(small)[0]
        patch = scaled(small, 0.3 * face.width / little.width)
        scene[: patch.shape[0], : patch.shape[1]] = patch
        photo = examine(Photo("scene", scene), detector, recogniser)
        assert len(photo.faces) == 2
        inspection = judge([photo, *(examined(name) for name in A)], recogniser)
        assert inspection.reports[0].is_usable, inspection.reports[0]
        alike = [recogniser.likeness(inspection.usable[0].embedding, one.embedding) for one in inspection.usable[1:]]
        assert np.mean(alike) > recogniser.same_person


def test_head_poses_have_the_documented_signs(detector: DlibDetector, selfie: Selfie) -> None:
    photo = selfie("a/img59").rgb  # looks to the picture's left
    left, right = detector(photo)[0].pose, detector(np.ascontiguousarray(photo[:, ::-1]))[0].pose
    assert left.yaw < -15
    assert right.yaw > 15
    assert detector(turned(selfie("b/img33").rgb, -20))[0].pose.roll == pytest.approx(20, abs=6)


def test_a_rotated_photo_is_not_called_turned_away_and_is_still_the_same_person(
    detector: DlibDetector, recogniser: DlibFaceId
) -> None:
    """Needs no real selfies: the astronaut portrait of scikit-image."""
    upright = Photo("upright", scaled(astronaut()[:300, 80:380], 2))
    for degrees in (-60, -25, 25, 60, 180):
        tilted = Photo("tilted", turned(upright.rgb, degrees))
        inspection = inspect_photos([upright, tilted], detector, recogniser)
        assert len(inspection.usable) == 2, degrees
        assert inspection.reference is not None
        assert inspection.reference.photo.name == "upright" or abs(degrees) <= 25


def test_one_photo_alone_is_judged_on_its_own(detector: DlibDetector, recogniser: DlibFaceId) -> None:
    inspection = inspect_photos([Photo("one", scaled(astronaut(), 2))], detector, recogniser)
    assert inspection.reports[0].verdict is Verdict.OK
    assert judge([], recogniser).reference is None


def test_judging_again_after_each_photo_is_nearly_free(examined: Examined, recogniser: DlibFaceId) -> None:
    findings = [examined(name) for name in (*A, *B, *C, *STRANGERS[:5])]
    begin = time.process_time()
    judge(findings, recogniser)
    assert time.process_time() - begin < 0.5


def test_inspection_needs_no_torch() -> None:
    code = "import sys, engine.inspection, engine.__main__; from engine.profiles import load_profile as l; p = l(); "
    code += "p.detector, p.recogniser; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
