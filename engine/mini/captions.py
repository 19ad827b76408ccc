"""The small model's language: a fixed vocabulary, and captions from what can be measured in a face chip.

A caption reads "photo of a man, short grey hair, glasses, smile, light from the left, dark background". Phrases may be
missing and stand in any order; the trigger phrase "easyphoto_face, easyphoto, 1person" may replace "photo of a man".
Words that the vocabulary lacks are spelled by bytes and were trained to mean nothing.
"""

from dataclasses import asdict, dataclass, replace

import cv2
import numpy as np

TRIGGER = "easyphoto_face, easyphoto, 1person"

WORDS = (
    "easyphoto",
    "_",
    "face",
    "1",
    "2",
    "person",
    "a",
    "an",
    "of",
    "photo",
    "picture",
    "portrait",
    "man",
    "woman",
    "people",
    "with",
    "and",
    "the",
    "in",
    "on",
    "from",
    "no",
    "without",
    "smile",
    "teeth",
    "serious",
    "glasses",
    "beard",
    "clean",
    "shaven",
    "short",
    "long",
    "dark",
    "black",
    "brown",
    "blond",
    "grey",
    "white",
    "red",
    "hair",
    "bald",
    "bright",
    "blue",
    "green",
    "plain",
    "background",
    "soft",
    "light",
    "left",
    "right",
    "front",
    "shadow",
    "looking",
    "to",
    "monochrome",
    "color",
    "blurred",
    "sharp",
    "young",
    "old",
    "head",
    "shirt",
    "suit",
    "studio",
    "outdoors",
    ",",
    ".",
    "-",
    "(",
    ")",
    ":",
    "!",
)
"""Words whose meaning was trained."""

FILLERS = (
    "masterpiece",
    "beauty",
    "best",
    "quality",
    "realistic",
    "photorealistic",
    "film",
    "photography",
    "detailed",
    "detail",
    "finely",
    "beautiful",
    "cool",
    "skin",
    "texture",
    "high",
    "resolution",
    "8k",
    "4k",
    "hd",
    "raw",
    "natural",
    "gentle",
    "elegant",
    "fresh",
    "happy",
    "look",
    "at",
    "viewer",
    "cloth",
    "clothes",
    "minor",
    "acne",
    "pores",
    "ultra",
    "highres",
    "lighting",
    "professional",
    "dslr",
    "sharp",
    "focus",
    "depth",
    "field",
    "cinematic",
    "handsome",
    "pretty",
    "wearing",
    "jacket",
    "tie",
    "dress",
    "indoor",
    "warm",
    "cold",
    "tone",
    "bloated",
    "eyes",
    "ugly",
    "lowres",
    "bad",
    "anatomy",
    "hands",
    "text",
    "error",
    "missing",
    "fingers",
    "extra",
    "digit",
    "fewer",
    "cropped",
    "worst",
    "low",
    "normal",
    "jpeg",
    "artifacts",
    "signature",
    "watermark",
    "username",
    "blurry",
    "nude",
    "nsfw",
    "deformed",
    "cross",
    "eyed",
    "mouth",
    "nose",
    "cartoon",
    "painting",
    "illustration",
    "drawing",
    "sketch",
    "3d",
    "render",
)
"""Words that other prompts like to use; the model knows them as words without consequence."""


@dataclass(frozen=True)
class Attributes:
    """What a caption says; empty means not said."""

    person: str = "person"
    hair: str = ""
    glasses: str = ""
    beard: str = ""
    expression: str = ""
    light: str = ""
    looking: str = ""
    background: str = ""
    tone: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    def mirrored(self) -> "Attributes":
        """The same face in a mirror: left and right change places."""
        turn = {"light from the left": "light from the right", "light from the right": "light from the left",
                "looking left": "looking right", "looking right": "looking left"}  # fmt: skip
        return replace(self, light=turn.get(self.light, self.light), looking=turn.get(self.looking, self.looking))

    def phrases(self) -> list[str]:
        """The phrases after the first, in the usual order, without empty ones."""
        rest = (
            self.hair, self.beard, self.glasses, self.expression, self.looking, self.light, self.background, self.tone
        )  # fmt: skip
        return [p for p in rest if p]


def caption(attributes: Attributes, is_subject: bool = False) -> str:
    """The whole caption; with `is_subject` it starts with the trigger phrase."""
    head = TRIGGER if is_subject else f"photo of a {attributes.person}"
    return ", ".join([head, *attributes.phrases()])


def measure(rgb: np.ndarray, landmarks: np.ndarray, known: Attributes | None = None) -> Attributes:
    """Attributes of a canvas chip (size, size, 3) uint8 with its (68, 2) landmarks; `known` gives what pixels cannot."""  # noqa: E501
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV).astype(np.float32)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    tone = "monochrome" if hsv[..., 1].mean() < 14 else ""
    return replace(
        known or Attributes(),
        hair=(known.hair + " " if known and known.hair else "") + _hair(rgb, landmarks),
        expression=_expression(grey, landmarks),
        light=_light(grey, landmarks),
        looking=_looking(landmarks),
        background=background_phrase(rgb, tone == "monochrome"),
        tone=tone,
    )


def background_phrase(rgb: np.ndarray, is_monochrome: bool = False) -> str:
    """Brightness, or colour when it has one, of the two upper corners."""
    size = rgb.shape[0]
    high, wide = size // 3, size // 9
    corners = np.concatenate([rgb[:high, :wide].reshape(-1, 3), rgb[:high, -wide:].reshape(-1, 3)]).astype(np.float32)
    red, green, blue = np.median(corners, axis=0)
    value = max(red, green, blue)
    if value < 70:
        return "dark background"
    if is_monochrome or value - min(red, green, blue) < 0.17 * value:
        return "white background" if value > 205 else "grey background"
    if blue >= max(red, green):
        return "blue background"
    return "green background" if green > red else "brown background" if value < 190 else "red background"


def _hair(rgb: np.ndarray, landmarks: np.ndarray) -> str:
    """Colour of the strip where hair usually starts: above the brows by 0.8 of brow-to-nose-tip."""
    brow, nose = landmarks[17:27].mean(0), landmarks[33]
    height = nose[1] - brow[1]
    y = int(np.clip(brow[1] - 1.05 * height, 2, None))
    x0, x1 = int(landmarks[19, 0]), int(landmarks[24, 0])
    strip = rgb[max(0, y - 4) : y + 4, x0:x1].reshape(-1, 3).astype(np.float32)
    cheek = rgb[int(nose[1]) - 3 : int(nose[1]) + 3, int(landmarks[2, 0]) + 6 : int(landmarks[31, 0]) - 2]
    skin = np.median(cheek.reshape(-1, 3), axis=0) if cheek.size else np.array([170.0, 140, 120])
    tone = np.median(strip, axis=0)
    if np.abs(tone - skin).mean() < 13:
        return "bald head"
    brightness, warmth = tone.mean(), tone[0] - tone[2]
    if brightness < 55:
        return "black hair" if warmth < 14 else "dark hair"
    if warmth > 28:
        return "brown hair" if brightness < 130 else "blond hair"
    return "grey hair" if brightness < 170 else "white hair"


def _expression(grey: np.ndarray, landmarks: np.ndarray) -> str:
    p = landmarks
    width = np.linalg.norm(p[54] - p[48]) / np.linalg.norm(p[45] - p[36])
    opening = np.linalg.norm(p[66] - p[62]) / np.linalg.norm(p[54] - p[48])
    inner = grey[int(p[62, 1]) : int(p[66, 1]) + 1, int(p[61, 0]) : int(p[63, 0]) + 1]
    if opening > 0.10 and inner.size and inner.mean() > 90:
        return "smile with teeth"
    return "smile" if width > 0.66 else "serious"


def _light(grey: np.ndarray, landmarks: np.ndarray) -> str:
    left, right = (
        grey[int(p[1]) - 5 : int(p[1]) + 5, int(p[0]) - 5 : int(p[0]) + 5].mean()
        for p in (landmarks[[2, 31, 39]].mean(0), landmarks[[14, 35, 42]].mean(0))
    )
    ratio = left / max(right, 1.0)
    if ratio > 1.22:
        return "light from the left"
    return "light from the right" if ratio < 1 / 1.22 else "soft light"


def _looking(landmarks: np.ndarray) -> str:
    left = landmarks[33, 0] - landmarks[2, 0]
    right = landmarks[14, 0] - landmarks[33, 0]
    ratio = left / max(right, 1e-3)
    if ratio > 1.45:
        return "looking right"
    return "looking left" if ratio < 1 / 1.45 else ""


@dataclass(frozen=True)
class Labels:
    """What pixels' statistics cannot tell (woman or man, glasses, beard), learned from a few portraits named by eye."""

    is_woman: np.ndarray
    has_glasses: np.ndarray
    has_beard: np.ndarray

    @staticmethod
    def learned(seen: dict[str, list[str]], names: np.ndarray, embeddings: np.ndarray, chips: np.ndarray) -> "Labels":
        """Ridge classifiers on FaceID (sex) and on grey patches (glasses, beard), trained on `seen["looked_at"]`.

        `seen` maps "looked_at", "woman", "glasses", "beard" to portrait names; chips are (n, size, size, 3) uint8.
        """
        position = {str(n): i for i, n in enumerate(names)}
        rows = np.array([position[n] for n in seen["looked_at"]])
        eyes, mouth = _patch(chips, 0.36, 0.62), _patch(chips, 0.60, 0.95)
        answers = []
        for key, features in (("woman", embeddings), ("glasses", eyes), ("beard", mouth)):
            target = np.array([1.0 if n in set(seen[key]) else -1.0 for n in seen["looked_at"]])
            scores = _ridge(features[rows], target, features)
            # As common among all portraits as among those looked at.
            answers.append(scores > np.quantile(scores, 1 - (target > 0).mean()))
        woman, glasses, beard = answers
        return Labels(woman, glasses, beard & ~woman)

    def of(self, index: int) -> Attributes:
        """The attributes of one portrait that are known from here."""
        is_woman = bool(self.is_woman[index])
        return Attributes(
            person="woman" if is_woman else "man",
            hair="" if is_woman else "short",
            glasses="glasses" if self.has_glasses[index] else "",
            beard="" if is_woman else "beard" if self.has_beard[index] else "clean shaven",
        )


def _patch(chips: np.ndarray, top: float, bottom: float) -> np.ndarray:
    """(n, d) unit-variance vertical and horizontal contrasts of a band of the middle of the face."""
    size = chips.shape[1]
    band = chips[:, int(top * size) : int(bottom * size), int(0.26 * size) : int(0.74 * size)].mean(-1)
    small = np.stack([cv2.resize(b.astype(np.float32), (24, 16), interpolation=cv2.INTER_AREA) for b in band])
    small = (small - small.mean((1, 2), keepdims=True)) / (small.std((1, 2), keepdims=True) + 1e-3)
    both = np.concatenate([small, small[..., ::-1]], axis=0)  # a face and its mirror image have the same glasses
    parts = [both.reshape(len(both), -1), np.abs(np.diff(both, axis=1)).reshape(len(both), -1)]
    features = np.concatenate(parts, axis=1)
    return (features[: len(chips)] + features[len(chips) :]) / 2


def _ridge(known: np.ndarray, target: np.ndarray, every: np.ndarray) -> np.ndarray:
    """(n,) predictions of a ridge regression in its dual form; the two classes weigh the same."""
    mean, spread = known.mean(0), known.std(0) + 1e-6
    a, b = (known - mean) / spread, (every - mean) / spread
    weight = np.where(target > 0, 0.5 / (target > 0).sum(), 0.5 / (target < 0).sum()) * len(target)
    centre = (weight * target).sum() / weight.sum()
    dual = np.linalg.solve(a @ a.T + np.diag(0.3 * a.shape[1] / weight), target - centre)
    return (b @ a.T) @ dual + centre
