"""What goes wrong in the reference system and must not here: odd faces, odd sizes, side effects, what is delivered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from engine.config import PortraitConfig
from engine.crop import Crop, box_crop, chip_crop
from engine.diffusion import InpaintRequest, Painting
from engine.errors import UnsafePicture
from engine.images import read_photo, resized
from engine.models.dlib_faces import DlibDetector
from engine.models.mini_controls import MiniControls
from engine.portraits import PortraitReport, make_portraits
from engine.profiles import MiniProfile
from engine.stages import control, guard, inpaint
from engine.types import Photo, Rgb, SubjectFiles

PAINTLESS = {"first_diffusion": False, "second_diffusion": False, "super_resolution": False}
Painter = Callable[[InpaintRequest], Painting]


class Recorded:
    """A diffusion that does `what` and remembers what it was asked for."""

    def __init__(self, what: Callable[[Rgb], Rgb] = lambda rgb: rgb) -> None:
        self.what, self.requests = what, list[InpaintRequest]()

    def painting(self, request: InpaintRequest, on_step: object = None) -> Painting:
        self.requests.append(request)
        return Painting(request.image, lambda: [self.what(request.image)] * request.count)


def profile_with(diffusion: Recorded) -> MiniProfile:
    profile = MiniProfile("cpu")
    profile.__dict__["diffusion"] = diffusion
    return profile


@pytest.fixture(scope="module")
def profile() -> MiniProfile:
    return MiniProfile("cpu")


@pytest.fixture(scope="module")
def paintless(profile: MiniProfile) -> PortraitConfig:
    result: PortraitConfig = profile.portrait.with_changes(**PAINTLESS)
    return result


@pytest.fixture(scope="module")
def template(shared_data: Path) -> Photo:
    return read_photo(shared_data / "templates" / "8.jpg", 601)  # px: small is quick, odd is harder


def is_the_person(report: PortraitReport, profile: MiniProfile) -> bool:
    return report.likeness["final"] > profile.recogniser.same_person


def test_a_small_face_in_a_group_photo_becomes_the_person(
    profile: MiniProfile, paintless: PortraitConfig, people: dict[str, SubjectFiles], shared_data: Path
) -> None:
    group = read_photo(shared_data / "selfies" / "family" / "identification1.jpg", 480)
    assert max(face.width for face in profile.detector(group.rgb)) < 80
    report = make_portraits(people["a"], group, profile, paintless)
    assert is_the_person(report, profile)
    assert report.changed_outside_mask == 0


def test_a_close_up_larger_than_the_canvas_keeps_its_own_detail(template: Photo, detector: DlibDetector) -> None:
    """What comes back of a canvas is its change: the picture's detail, finer than the canvas, survives."""
    picture = resized(template.rgb, (4 * template.rgb.shape[1], 4 * template.rgb.shape[0]))
    grain = np.random.default_rng(0).normal(0, 12, picture.shape)
    picture = np.clip(picture + grain, 0, 255).astype(np.uint8)
    face = replace(
        detector(template.rgb)[0],
        landmarks=detector(template.rgb)[0].landmarks * 4,
        box_xyxy=tuple(4 * x for x in detector(template.rgb)[0].box_xyxy),  # type: ignore[arg-type]
    )
    crop = chip_crop(face, 128)
    assert crop.scale < 0.25
    mask = np.zeros(picture.shape[:2], np.float32)
    left, top, right, bottom = (round(x) for x in face.box_xyxy)
    mask[top:bottom, left:right] = 1
    darker = Recorded(lambda rgb: np.clip(rgb.astype(int) - 20, 0, 255).astype(np.uint8))
    numbers = inpaint.Pass("", "", 1, 1.0, 2.0, 0)
    canvas = inpaint.Canvas.of(picture, mask, crop, crop.cut(picture), (), numbers)
    (painted,) = inpaint.painted(canvas, darker, lambda done, total: None)  # type: ignore[arg-type]
    middle = np.s_[top + 60 : bottom - 60, left + 60 : right - 60]
    before, after = (p.astype(np.float32) for p in (picture[middle], painted[middle]))
    assert (after - before).mean() == pytest.approx(-20, abs=4)
    fine = [p - cv2.GaussianBlur(p, (0, 0), 2) for p in (before, after)]
    assert np.corrcoef(fine[0].ravel(), fine[1].ravel())[0, 1] > 0.97
    assert np.array_equal(painted[mask == 0], picture[mask == 0])


@pytest.mark.parametrize("zoom", [0.7, 1, 3])
@pytest.mark.parametrize("place", ["nowhere", "everywhere", "in a corner", "beyond the canvas"])
def test_wherever_a_mask_lies_nothing_beside_it_changes(zoom: float, place: str) -> None:
    picture = np.random.default_rng(0).integers(0, 200, (90, 80, 3), dtype=np.uint8)
    crop = Crop(np.array([[zoom, 0, -5], [0, zoom, -6]], np.float64), (48, 48))
    mask = np.zeros(picture.shape[:2], np.float32)
    left, top, right, bottom = {
        "nowhere": (0, 0, 0, 0),
        "everywhere": (0, 0, 80, 90),
        "in a corner": (0, 0, 30, 30),
        "beyond the canvas": (75, 85, 80, 90),
    }[place]
    mask[top:bottom, left:right] = 1
    lighter = Recorded(lambda rgb: rgb + np.uint8(40))
    canvas = inpaint.Canvas.of(picture, mask, crop, crop.cut(picture), (), inpaint.Pass("", "", 1, 1.0, 2.0, 0))
    (painted,) = inpaint.painted(canvas, lighter, lambda done, total: None)  # type: ignore[arg-type]
    assert np.array_equal(painted[mask == 0], picture[mask == 0])
    assert np.array_equal(painted, picture) == (place not in ("everywhere", "in a corner"))


def test_what_is_finer_than_the_canvas_keeps_its_colour(template: Photo, detector: DlibDetector) -> None:
    """A hair that the canvas cannot show: what the canvas makes of that place is meant for the skin around it."""
    picture = resized(template.rgb, (4 * template.rgb.shape[1], 4 * template.rgb.shape[0]))
    small = detector(template.rgb)[0]
    face = replace(small, landmarks=small.landmarks * 4)
    crop = chip_crop(face, 128)
    x, y = (int(v) for v in face.landmarks[[19, 24]].mean(0))
    picture[y - 200 : y - 20, x - 200 : x + 200] = (215, 180, 160)
    strand = np.s_[y - 200 : y - 20, x - 3 : x + 3]
    picture[strand] = (30, 25, 20)
    mask = np.zeros(picture.shape[:2], np.float32)
    mask[y - 300 : y + 400, x - 400 : x + 400] = 1

    class Lighter(Recorded):
        """An autoencoder that loses the hair, and a diffusion that paints skin."""

        def painting(self, request: InpaintRequest, on_step: object = None) -> Painting:
            blurred = cv2.GaussianBlur(request.image, (0, 0), 3)
            return Painting(blurred, lambda: [np.clip(blurred.astype(int) + 30, 0, 255).astype(np.uint8)])

    numbers = inpaint.Pass("", "", 1, 1.0, 2.0, 0)
    canvas = inpaint.Canvas.of(picture, mask, crop, crop.cut(picture), (), numbers)
    (painted,) = inpaint.painted(canvas, Lighter(), lambda done, total: None)  # type: ignore[arg-type]
    change = painted.astype(int) - picture
    assert change[y - 120 : y - 80, x - 120 : x - 90].mean() > 20
    assert np.abs(change[strand]).mean() < 4


@pytest.mark.parametrize(("name", "yaw", "least"), [("3", 25, 0.4), ("7", 35, 0.3)])
def test_a_turned_face_comes_as_near_to_the_person_as_frontal_photos_can(
    profile: MiniProfile,
    paintless: PortraitConfig,
    people: dict[str, SubjectFiles],
    shared_data: Path,
    name: str,
    yaw: float,
    least: float,
) -> None:
    turned = read_photo(shared_data / "templates" / f"{name}.jpg", 700)
    assert abs(profile.detector(turned.rgb)[0].pose.yaw) > yaw
    report = make_portraits(people["b"], turned, profile, paintless)
    assert report.likeness["final"] > max(least, report.likeness["template"] + 0.25)
    assert report.changed_outside_mask == 0


def test_glasses_of_the_template_do_not_stay_on_the_eyes(
    profile: MiniProfile, paintless: PortraitConfig, people: dict[str, SubjectFiles], shared_data: Path
) -> None:
    glasses = read_photo(shared_data / "selfies" / "family" / "detection1.jpg")
    report = make_portraits(people["b"], glasses, profile, paintless)
    face = profile.detector(glasses.rgb)[0]
    lenses = np.concatenate([face.landmarks[36:48], face.landmarks[36:48] + np.array([0, 0.12 * face.height])]).astype(
        int
    )
    band = np.zeros(glasses.rgb.shape[:2], np.uint8)
    cv2.fillConvexPoly(band, cv2.convexHull(lenses), 1)
    black = [(p.max(-1) < 60)[band > 0].mean() for p in (glasses.rgb, report.portrait)]
    assert black[0] > 0.1  # the frame
    assert black[1] < 0.5 * black[0]
    assert is_the_person(report, profile)


@pytest.mark.parametrize("whole", [True, False])
def test_a_template_of_any_size_is_worked_on_whole_or_cropped(
    people: dict[str, SubjectFiles], template: Photo, whole: bool
) -> None:
    assert any(side % 8 for side in template.rgb.shape[:2])
    diffusion = Recorded()
    profile = profile_with(diffusion)
    numbers = profile.portrait.with_changes(super_resolution=False, crop_face_preprocess=not whole)
    report = make_portraits(people["a"], template, profile, numbers)
    assert report.portrait.shape == template.rgb.shape
    assert report.changed_outside_mask == 0
    assert {request.image.shape for request in diffusion.requests} == {(128, 128, 3)}


def test_a_request_leaves_no_trace_in_the_next(
    people: dict[str, SubjectFiles], template: Photo, profile: MiniProfile
) -> None:
    diffusion = Recorded()
    numbers = profile.portrait.with_changes(super_resolution=False)
    pixels = template.rgb.copy()
    first, again = (make_portraits(people["a"], template, profile_with(diffusion), numbers) for _ in range(2))
    assert np.array_equal(first.portrait, again.portrait)
    assert np.array_equal(template.rgb, pixels)
    half = len(diffusion.requests) // 2
    for one, other in zip(diffusion.requests[:half], diffusion.requests[half:], strict=True):
        assert (one.prompt, one.negative, one.seed) == (other.prompt, other.negative, other.seed)
        assert np.array_equal(one.image, other.image)


def test_a_digital_id_without_a_face_costs_nothing(
    people: dict[str, SubjectFiles], template: Photo, tmp_path: Path
) -> None:
    shutil.copytree(people["a"].folder, tmp_path / "subject")
    Image.new("RGB", (128, 128)).save(tmp_path / "subject" / "digital_id.jpg")
    profile = profile_with(Recorded())
    numbers = profile.portrait.with_changes(super_resolution=False)
    assert make_portraits(SubjectFiles(tmp_path / "subject"), template, profile, numbers).faces == 1


def test_a_broken_template_costs_no_other(
    people: dict[str, SubjectFiles], template: Photo, profile: MiniProfile, paintless: PortraitConfig
) -> None:
    """Each template is a call of its own; what one left behind does not reach the next."""
    from engine.errors import NoFaceInTemplate

    wall = Photo("wall.jpg", np.full((300, 300, 3), 90, np.uint8))
    before = make_portraits(people["a"], template, profile, paintless)
    with pytest.raises(NoFaceInTemplate):
        make_portraits(people["a"], wall, profile, paintless)
    assert np.array_equal(make_portraits(people["a"], template, profile, paintless).portrait, before.portrait)


def test_what_the_content_check_refuses_is_not_delivered(
    people: dict[str, SubjectFiles], template: Photo, paintless: PortraitConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Prudish:
        name = "prudish"

        def __init__(self, answers: list[bool]) -> None:
            self.answers = answers

        def is_safe(self, rgb: Rgb) -> bool:
            return self.answers.pop(0)

    profile = MiniProfile("cpu")
    profile.content_check = Prudish([False])
    with pytest.raises(UnsafePicture):
        make_portraits(people["a"], template, profile, paintless)

    class Varied(Recorded):
        def painting(self, request: InpaintRequest, on_step: object = None) -> Painting:
            grain = np.random.default_rng(1).normal(0, 1, request.image.shape)
            pictures = [np.clip(request.image + grain * k, 0, 255).astype(np.uint8) for k in (1, 3)]
            return Painting(request.image, lambda: pictures[: request.count])

    monkeypatch.setattr(guard, "MARGIN", -1.0)  # everything may stay
    profile = profile_with(Varied())
    profile.content_check = Prudish([False, True])
    report = make_portraits(people["a"], template, profile, paintless.with_changes(first_diffusion=True, candidates=2))
    assert report.others == ()
    assert report.ranks == (1,)
    assert any("refused by the content check" in note for note in report.notes)
    assert report.as_json(Path("p.jpg"))["content_check"] == "prudish"


def test_the_face_shape_pass_paints_all_and_takes_the_face(people: dict[str, SubjectFiles], template: Photo) -> None:
    diffusion = Recorded(lambda rgb: np.clip(rgb.astype(int) - 10, 0, 255).astype(np.uint8))
    profile = profile_with(diffusion)
    numbers = profile.portrait.with_changes(super_resolution=False, second_diffusion=False, face_shape_match=True)
    report = make_portraits(people["a"], template, profile, numbers)
    (request,) = diffusion.requests
    assert request.mask is not None
    assert request.mask.min() == 1
    weights = {control.name: control.weight for control in request.controls}
    assert weights["color"] == 0 < weights["canny"]
    assert report.changed_outside_mask == 0


def test_the_background_pass_leaves_the_face_alone(people: dict[str, SubjectFiles], template: Photo) -> None:
    profile = profile_with(Recorded(lambda rgb: np.clip(rgb.astype(int) - 30, 0, 255).astype(np.uint8)))
    numbers = profile.portrait.with_changes(**PAINTLESS)
    plain, restored = (
        make_portraits(people["a"], template, profile, numbers.with_changes(background_restore=wanted)).portrait
        for wanted in (False, True)
    )
    face = profile.detector(template.rgb)[0]
    inner = box_crop(face, 0.4, (32, 32))
    assert np.array_equal(inner.cut(plain), inner.cut(restored))
    assert (plain[-20:].astype(int) - restored[-20:]).mean() > 10


def test_a_setting_that_the_profile_cannot_follow_is_said(people: dict[str, SubjectFiles], template: Photo) -> None:
    profile = profile_with(Recorded())
    numbers = profile.portrait.with_changes(
        super_resolution=False, second_diffusion=False, ip_adapter_weight=0.3, film_lora_weight=0.65
    )
    notes = make_portraits(people["a"], template, profile, numbers).notes
    assert "no IP-Adapter: the profile has none" in notes
    assert "no film look: the profile has no LoRA for it" in notes


def test_a_face_prompt_takes_no_other_control_away() -> None:
    canvas = np.zeros((64, 64, 3), np.uint8)
    plain, shown = (PortraitConfig(ip_adapter_weight=weight) for weight in (0, 0.3))
    for numbers in (plain, shown):
        names = [(c.name, c.weight) for c in control.second_controls(canvas, MiniControls(), numbers)]
        assert names == [("canny", 1.0), ("color", 1.0)]


# field: the reference's default (None: on or off), least, most; its user interface's, for photos.
REFERENCE = {
    "crop_face_preprocess": (True, None, None),
    "fusion_before": (True, None, None),
    "fusion_before_ratio": (0.60, 0.2, 0.8),
    "fusion_after": (True, None, None),
    "fusion_after_ratio": (0.60, 0.2, 0.8),
    "first_steps": (50, 15, 50),
    "first_strength": (0.45, 0.30, 0.60),
    "second_diffusion": (True, None, None),
    "second_steps": (20, 15, 50),
    "second_strength": (0.30, 0.20, 0.40),
    "color_shift_middle": (True, None, None),
    "color_shift_last": (True, None, None),
    "skin_retouch": (False, None, None),
    "super_resolution": (True, None, None),
    "super_resolution_ratio": (0.50, 0.0, 1.0),
    "background_restore": (False, None, None),
    "background_strength": (0.35, 0.10, 0.60),
    "face_shape_match": (False, None, None),
    "makeup_transfer": (False, None, None),
    "makeup_ratio": (0.50, 0.0, 1.0),
    "lora_weight": (0.90, 0.0, 1.30),
    "guidance": (7.0, 2.0, 7.0),
    "seed": (12345, 0, 65535),
}
OFF_HERE = {"ip_adapter_weight": (0.10, 1.00), "film_lora_weight": (0.65, 0.65)}  # the reference's ranges


@pytest.mark.parametrize("name", [*REFERENCE, *OFF_HERE])
def test_every_parameter_of_the_reference_is_there_with_its_default_and_its_range(name: str) -> None:
    default, least, most = REFERENCE.get(name) or (0.0, *OFF_HERE[name])
    assert getattr(PortraitConfig(), name) == default
    for value in (least, most):
        if value is not None:
            assert getattr(PortraitConfig().with_changes(**{name: value}), name) == value
