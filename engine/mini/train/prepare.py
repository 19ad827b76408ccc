"""Makes the training file from a folder of portraits: face chips, landmarks, head mattes, captions.

    python -m engine.mini.train.prepare FOLDER chips.npz --labels engine/mini/train/labels.json

The layout of the file is in `stored.py`. 879 portraits take about 3 minutes.
"""

import argparse
import json
import logging
from pathlib import Path

import cv2
import numpy as np

from engine.mini.captions import Labels, measure
from engine.mini.chip import five_points, transform
from engine.mini.train.faces import FaceTools, read_picture
from engine.mini.train.stored import STORED, canvas_chips, stored_matrix, to_canvas, unpack_chips

log = logging.getLogger(__name__)


def head_matte(rgb: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(h, w) uint8, 255 = person: GrabCut (Rother 2004) started from an oval around the face, at half size."""
    small = cv2.resize(rgb, (STORED // 2, STORED // 2), interpolation=cv2.INTER_AREA)
    points = landmarks / 2
    mask = np.full(small.shape[:2], cv2.GC_PR_BGD, np.uint8)
    centre, reach = points.mean(0), points.max(0) - points.min(0)
    oval = (int(reach[0] * 0.85), int(reach[1] * 1.05))
    top = (int(centre[0]), int(centre[1] - reach[1] * 0.25))
    cv2.ellipse(mask, top, oval, 0, 0, 360, int(cv2.GC_PR_FGD), -1)
    cv2.rectangle(mask, (int(points[:, 0].min()), int(points[:, 1].max())), (int(points[:, 0].max()), 95), 3, -1)
    cv2.fillConvexPoly(mask, cv2.convexHull(points.astype(np.int32)), int(cv2.GC_FGD))
    mask[:6, :12] = mask[:6, -12:] = mask[:50, :3] = mask[:50, -3:] = cv2.GC_BGD
    cv2.grabCut(small[..., ::-1].copy(), mask, None, np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
    person = np.where((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD), 255, 0).astype(np.uint8)
    person = cv2.morphologyEx(person, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return cv2.GaussianBlur(person, (0, 0), 1.2)


def prepare(folder: Path) -> dict[str, np.ndarray]:
    """Arrays of the training file, without captions. Portraits in which dlib finds no face are left out."""
    tools = FaceTools.load()
    out: dict[str, list] = {k: [] for k in ("name", "jpeg", "matte", "landmarks", "embedding")}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}):
        rgb = read_picture(path)
        found = tools.landmarks(rgb)
        if found is None:
            log.warning("no face in %s", path.name)
            continue
        matrix = stored_matrix(five_points(found))
        chip = cv2.warpAffine(rgb, matrix, (STORED, STORED), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
        points = transform(matrix, found)
        jpeg = cv2.imencode(".jpg", chip[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 94])[1].ravel()
        for key, value in (
            ("name", path.stem), ("jpeg", jpeg), ("matte", head_matte(chip, points)),
            ("landmarks", points.astype(np.float32)), ("embedding", tools.embedding(rgb, found).astype(np.float32)),
        ):  # fmt: skip
            out[key].append(value)
    sizes = np.array([len(j) for j in out["jpeg"]])
    return {
        "names": np.array(out["name"]),
        "jpeg": np.concatenate(out["jpeg"]),
        "jpeg_end": np.cumsum(sizes),
        "matte": np.stack(out["matte"]),
        "landmarks": np.stack(out["landmarks"]),
        "embedding": np.stack(out["embedding"]),
    }


def main() -> None:
    """Command line, see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--labels", type=Path, help="a few portraits named by eye, from which the rest is learned")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = prepare(args.folder)
    chips = canvas_chips(unpack_chips(data))
    points = to_canvas(data["landmarks"])
    labels = Labels.learned(json.loads(args.labels.read_text()), data["names"], data["embedding"], chips)
    data["captions"] = np.array(
        [json.dumps(measure(c, p, labels.of(i)).as_dict()) for i, (c, p) in enumerate(zip(chips, points, strict=True))]
    )
    np.savez(args.output, **data)  # type: ignore[arg-type]
    log.info("%d portraits, %.1f MB", len(data["names"]), args.output.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
