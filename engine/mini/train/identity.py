"""Computes the principal components of `engine.mini.identity` from the training file. Seconds on a CPU.

python -m engine.mini.train.identity chips.npz engine/mini/weights/identity/model.safetensors
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from engine.mini.identity import edge_directions
from engine.mini.train.stored import canvas_chips, unpack_chips

COMPONENTS = 128


def components(chips: np.ndarray) -> dict[str, np.ndarray]:
    """ "mean" (d,) and "basis" (d, COMPONENTS) float16 of (n, 128, 128, 3) chips of as many people, mirrored too.

    Projections on the basis have the same variance in every direction: what tells any two people apart counts, however
    small it is.
    """
    features = np.stack([edge_directions(side) for chip in chips for side in (chip, chip[:, ::-1])])
    mean = features.mean(0)
    _, spread, directions = np.linalg.svd(features - mean, full_matrices=False)
    basis = directions[:COMPONENTS].T / spread[:COMPONENTS]
    return {"mean": mean.astype(np.float16), "basis": np.ascontiguousarray(basis.astype(np.float16))}


def main() -> None:
    """Command line, see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chips")
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_file(components(canvas_chips(unpack_chips(dict(np.load(args.chips))))), args.output)


if __name__ == "__main__":
    main()
