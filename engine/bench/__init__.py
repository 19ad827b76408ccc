"""`python -m engine bench train|portrait`: how fast the real trainer and the real pipeline run on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command `bench` with its own commands."""
    bench = commands.add_parser("bench", help="measure training and portraits on this machine")
    kinds = bench.add_subparsers(required=True, metavar="what")
    weights = argparse.ArgumentParser(add_help=False)
    weights.add_argument(
        "--random-weights", action="store_true", help="networks of the published size made in memory: no downloads"
    )
    weights.add_argument("--tiny", action="store_true", help="with --random-weights: the same blocks, only narrower")
    weights.add_argument("--repeats", type=int, default=3, help="runs of which the median counts (default: 3)")

    train = kinds.add_parser("train", parents=[common, weights], help="the LoRA training, ours and the reference's way")
    train.add_argument(
        "--config", type=argparse.FileType("rb"), metavar="FILE", help="JSON with TrainingConfig's fields"
    )
    train.add_argument("--reference-steps", type=int, default=20, help="measured steps of the reference's way; 0: none")
    train.add_argument("--whole", action="store_true", help="as a worker does it: from photos to the subject's folder")
    train.add_argument("--photos", type=Path, metavar="DIR", help="with --whole: these photos (default: made ones)")
    train.set_defaults(command=_train)

    portrait = kinds.add_parser("portrait", parents=[common, weights], help="portraits from photos' pixels to pixels")
    portrait.add_argument(
        "--faces",
        choices=("dlib", "insightface"),
        default="dlib",
        help="insightface: networks of the production profile's size (extras `production` and `gpu` or `cpu`)",
    )
    portrait.set_defaults(command=_portrait)


def _train(options: argparse.Namespace) -> dict[str, Any]:
    from engine.bench import train, whole

    return whole.run(options) if options.whole else train.run(options)


def _portrait(options: argparse.Namespace) -> dict[str, Any]:
    from engine.bench.portrait import run

    result: dict[str, Any] = run(options)
    return result
