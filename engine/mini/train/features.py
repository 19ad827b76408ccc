"""A small face network, trained on the spot: who is it (790 classes, two-face mixtures as soft labels)?

    python -m engine.mini.train.features chips.npz OUT --seconds 45

Two are made. Network "loss" gives the VAE's perceptual loss; network "judge" (other seed, other width, never trained
against) measures: the LPIPS-like error, the FID-like distance and the second opinion on likeness.
"""

import argparse
import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.mini.train.augment import Portraits, draw

log = logging.getLogger(__name__)
IDENTITIES = 1000
WIDTH = {"loss": 32, "judge": 40}


class FaceFeatures(nn.Module):
    """Four residual stages at 1/2, 1/4, 1/8 and 1/16 of the picture, and a 192-d embedding of unit length."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = (width, 2 * width, 4 * width, 5 * width)
        self.stages = nn.ModuleList()
        before = 3
        for size in sizes:
            self.stages.append(
                nn.Sequential(
                    nn.Conv2d(before, size, 3, 2, 1), nn.GroupNorm(8, size), nn.SiLU(),
                    nn.Conv2d(size, size, 3, 1, 1), nn.GroupNorm(8, size), nn.SiLU(),
                )
            )  # fmt: skip
            before = size
        self.head = nn.Linear(before * 16, 192)
        self.classes = nn.Parameter(torch.randn(IDENTITIES, 192))

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """The four stages' outputs for (n, 3, h, w) pictures in -1..1."""
        out, x = [], pictures
        for stage in self.stages:
            x = stage(x)
            out.append(x)
        return out

    def embed(self, pictures: Tensor) -> Tensor:
        """(n, 192), unit length."""
        pooled = F.adaptive_avg_pool2d(self.maps(pictures)[-1], 4).flatten(1)
        return F.normalize(self.head(pooled), dim=1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """(n,) LPIPS-like: squared distance of channel-normalised features, mean over place, sum over stages."""
        pairs = zip(self.maps(a), self.maps(b), strict=True)
        gaps = [(F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean((1, 2)) for x, y in pairs]
        return torch.stack(gaps).sum(0)


def load_features(folder: Path, which: str, device: str) -> FaceFeatures:
    """A trained network, frozen."""
    net = FaceFeatures(WIDTH[which])
    net.load_state_dict(torch.load(folder / f"features_{which}.pt", weights_only=True, map_location="cpu"))
    return net.to(device).eval().requires_grad_(False)


def train_features(portraits: Portraits, which: str, seconds: float, batch: int) -> FaceFeatures:
    """Cosine softmax over identities; a face made of two has both as soft labels."""
    device = portraits.chips.device
    seed = {"loss": 11, "judge": 23}[which]
    torch.manual_seed(seed)
    rng = torch.Generator(device).manual_seed(seed)
    net = FaceFeatures(WIDTH[which]).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), 1.5e-3, weight_decay=0.02)
    start, step, right = time.time(), 0, 0.0
    while (past := (time.time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1, (step + 1) / 50) * max(0.02, 1 - past)
        drawn = draw(portraits, batch, rng)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            code = net.embed(drawn.pictures)
        logits = 24 * code.float() @ F.normalize(net.classes, dim=1).T
        logp = logits.log_softmax(1)
        a, b = portraits.owner[drawn.first], portraits.owner[drawn.second]
        loss = -(
            (1 - drawn.share) * logp.gather(1, a[:, None])[:, 0] + drawn.share * logp.gather(1, b[:, None])[:, 0]
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            right = (logits.argmax(1) == a).float().mean().item()
            log.info(
                "features %s step %d loss %.3f right %.2f %.0f s", which, step, loss.item(), right, time.time() - start
            )
        step += 1
    log.info("features %s done: %d steps of %d, loss %.3f, right %.2f", which, step, batch, loss.item(), right)
    return net


def main() -> None:
    """Command line, see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chips")
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.output.mkdir(parents=True, exist_ok=True)
    portraits = Portraits.load(args.chips, args.device)
    for which in WIDTH:
        net = train_features(portraits, which, args.seconds / len(WIDTH), args.batch)
        torch.save(net.state_dict(), args.output / f"features_{which}.pt")


if __name__ == "__main__":
    main()
