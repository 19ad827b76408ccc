"""`python -m tests.stand_ins KIND FOLDER [--true-size]`: writes random-weight files in a published format."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

KINDS = {
    "insightface": "an ONNX pack",
    "sd15": "single file, autoencoder, diffusers folder, four ControlNets, kohya LoRA (7 GB at true size)",
    "content-check": "a vision transformer",
    "u2net": "ModelScope, 168 MB",
    "retinaface": "ModelScope, 104 MB",
    "skin-retouching": "ModelScope, 258 MB",
    "rrdb-x4": "ModelScope, 64 MB",
    "gpen": "ModelScope, 711 MB",
    "face-fusion": "ModelScope, 1.5 GB; needs TensorFlow",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="; ".join(f"{kind}: {what}" for kind, what in KINDS.items()),
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--true-size", action="store_true", help="sd15 at its true size, in float16")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.kind == "sd15":
        _write_sd15(args.folder, args.true_size)
    elif args.kind == "insightface":
        from tests.stand_ins.insightface_packs import write_pack

        write_pack(args.folder)
    elif args.kind == "content-check":
        from tests.stand_ins.content_check import write_content_check

        write_content_check(args.folder)
    else:
        _write_modelscope(args.kind, args.folder)
    for path in sorted(path for path in args.folder.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size / 2**20:9.1f} MiB  {path}")


def _write_sd15(folder: Path, true_size: bool) -> None:
    from tests.stand_ins import sd15_files as files

    config = files.write_config(folder / "config", true_size)
    dtype = torch.float16 if true_size else torch.float32
    networks = files.random_networks(config, dtype)
    files.write_single_file(folder / "checkpoint.safetensors", networks)
    files.write_vae(folder / "vae.safetensors", networks.vae)
    for name in ("canny", "openpose", "tile", "color"):
        files.write_controlnet(folder / f"control_{name}.pth", networks.controlnet)
    files.write_kohya_lora(folder / "lora.safetensors", networks, rank=128 if true_size else 4, alpha=64, dtype=dtype)
    files.write_folder(folder / "folder", config, networks)


def _write_modelscope(kind: str, folder: Path) -> None:
    from tests.stand_ins import modelscope_folders

    getattr(modelscope_folders, "write_" + kind.replace("-", "_"))(folder)


if __name__ == "__main__":
    main()
