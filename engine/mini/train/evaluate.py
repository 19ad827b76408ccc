"""The numbers and sheets of docs/mini-model.md that need the held-out portraits. Minutes on a CPU.

    python -m engine.mini.train.evaluate chips.npz TRAINED docs/img

TRAINED holds features_judge.pt (made by `features`). Prints one JSON object; writes mini-samples.jpg (from noise, by
caption), mini-vae.jpg (held-out portraits and what the autoencoder gives back) and mini-control.jpg.
"""

import argparse
import json
import math
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from engine.diffusion import Diffusion
from engine.mini.captions import Attributes, caption
from engine.mini.measures import Example, following, from_noise, seen
from engine.mini.train.augment import Portraits, plain
from engine.mini.train.features import FaceFeatures, load_features
from engine.mini.train.stored import HOLD_OUT_EVERY, canvas_chips, unpack_chips
from engine.profiles import Profile, load_profile
from engine.types import Rgb

SEED = 70_001
EXAMPLES = 8
CONTROLLED = 5  # pictures on the sheet
SAID = (
    "photo of a man, short dark hair, smile with teeth",
    "photo of a woman, blond hair, smile",
    "photo of a man, bald head, glasses, serious",
    "photo of a man, short grey hair, beard",
    "photo of a woman, black hair, dark background",
    "photo of a man, short brown hair, light from the left",
    "photo of a person, white hair, blue background",
    "photo of a man, short black hair, monochrome",
)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of two Gaussians fitted to (n, d) and (m, d) features (Heusel 2017), d far below n and m."""
    gap = a.mean(0) - b.mean(0)
    one, two = np.cov(a.T), np.cov(b.T)
    mixed = np.linalg.eigvals(one @ two).real.clip(0)
    return float(gap @ gap + np.trace(one) + np.trace(two) - 2 * np.sqrt(mixed).sum())


class Frechet:
    """The FID-like distance: of the judge's features in the 24 directions in which the portraits differ most.

    A few dozen pictures a side cannot fill more directions than that; compare values only for equally many pictures.
    """

    def __init__(self, judge: FaceFeatures, portraits: Tensor) -> None:
        self._judge = judge
        features = self._pooled(portraits)
        self._mean, deviation = features.mean(0), features.std(0) + 1e-6
        _, _, directions = np.linalg.svd((features - self._mean) / deviation, full_matrices=False)
        self._basis = directions[:24].T / deviation[:, None]

    def __call__(self, a: Tensor, b: Tensor) -> float:
        """Of two (n, 3, 128, 128) sets in -1..1."""
        one, two = ((self._pooled(x) - self._mean) @ self._basis for x in (a, b))
        return frechet(one, two)

    @torch.no_grad()
    def _pooled(self, pictures: Tensor) -> np.ndarray:
        return np.concatenate([self._judge.maps(p)[-1].mean((2, 3)).numpy() for p in pictures.split(32)])


def autoencoder(diffusion: Diffusion, judge: FaceFeatures, pictures: Tensor) -> tuple[dict[str, float], Tensor]:
    """Signal to noise over all pixels, the LPIPS-like error, and the pictures that come back."""
    with torch.no_grad():
        back = torch.cat([diffusion.vae(p).sample.clamp(-1, 1) for p in pictures.split(16)])
        error = torch.cat([judge.distance(*pair) for pair in zip(pictures.split(16), back.split(16), strict=True)])
    psnr = -10 * math.log10(((pictures - back) / 2).square().mean().item())
    return {"psnr_db": round(psnr, 2), "lpips_like": round(error.mean().item(), 4)}, back


def sampled(diffusion: Diffusion, captions: list[str]) -> list[Rgb]:
    """One picture a caption, from noise."""
    return [from_noise(diffusion, 1, SEED + k, prompt=text)[0] for k, text in enumerate(captions)]


def evaluate(chips: str, trained: Path, sheets: Path, profile: Profile) -> dict[str, object]:
    """All measures; writes the sheets."""
    diffusion = profile.diffusion
    judge = load_features(trained, "judge", "cpu")
    kept = Portraits.load(chips, "cpu", held_out=True)
    held_out = plain(kept, torch.arange(len(kept.chips) // 2)).pictures
    known = Portraits.load(chips, "cpu")
    rows = torch.randperm(len(known.chips) // 2, generator=torch.Generator().manual_seed(SEED))
    training = plain(known, rows).pictures
    data = dict(np.load(chips))
    captions = [caption(Attributes(**json.loads(c))) for c in data["captions"][::HOLD_OUT_EVERY]]
    quality, back = autoencoder(diffusion, judge, held_out)
    _write(sheets / "mini-vae.jpg", [_pictures(held_out[:EXAMPLES]), _pictures(back[:EXAMPLES])])
    samples = sampled(diffusion, captions)
    distance, n = Frechet(judge, training), len(held_out)
    painted = torch.from_numpy(np.stack(samples)).permute(0, 3, 1, 2).float() / 127.5 - 1
    spoken = sampled(diffusion, list(SAID) * 2)
    _write(sheets / "mini-samples.jpg", [spoken[: len(SAID)], spoken[len(SAID) :]])
    return {
        "autoencoder, held out": quality,
        "frechet": {
            "samples to held out": round(distance(painted, held_out), 2),
            "training portraits to held out": [round(distance(training[k * n :][:n], held_out), 2) for k in range(3)],
            "autoencoder's held out to held out": round(distance(back, held_out), 2),
        },
        "faces found": f"{sum(seen(rgb, profile.detector) is not None for rgb in samples)} of {len(samples)}",
        "controls": controlled(data, profile, sheets),
    }


def controlled(data: dict[str, np.ndarray], profile: Profile, sheets: Path) -> dict[str, str]:
    """How the ControlNets lead on held-out portraits."""
    pictures = canvas_chips(unpack_chips(data)[::HOLD_OUT_EVERY])
    faces = [(rgb, found[0]) for rgb in pictures if (found := profile.detector(rgb))]
    examples = [Example.of(*face) for face in faces[:EXAMPLES]]
    rows = [[e.rgb for e in examples[:CONTROLLED]]]
    for name in ("canny", "pose", "color"):
        controls = [example.control(name) for example in examples[:CONTROLLED]]
        rows.append([control.picture for control in controls])
        rows.append([from_noise(profile.diffusion, 1, SEED + k, (c,))[0] for k, c in enumerate(controls)])
    columns = [list(column) for column in zip(*rows, strict=True)]
    _write(sheets / "mini-control.jpg", columns)
    results = following(profile.diffusion, examples, profile.detector, SEED)
    return {one.name: f"{one.led:.2f} with, {one.free:.2f} without ({one.unit})" for one in results}


def _pictures(tensor: Tensor) -> list[Rgb]:
    return list(((tensor + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())


def _write(path: Path, rows: list[list[Rgb]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = np.vstack([np.hstack(row) for row in rows])
    cv2.imwrite(str(path), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])


def main() -> None:
    """Command line, see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chips")
    parser.add_argument("trained", type=Path)
    parser.add_argument("sheets", type=Path)
    args = parser.parse_args()
    print(json.dumps(evaluate(args.chips, args.trained, args.sheets, load_profile("mini", "cpu")), indent=1))


if __name__ == "__main__":
    main()
