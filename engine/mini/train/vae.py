"""Trains the VAE (128x128 RGB <-> 4x32x32).

    python -m engine.mini.train.vae chips.npz OUT --seconds 220
    python -m engine.mini.train.vae chips.npz OUT --seconds 200 --decoder-only

The second form goes on with OUT/vae and trains only its decoder (with the discriminator from the start), into
OUT/vae_decoder: latents, and all that was trained on them, stay valid.

Loss: absolute difference and its gradients at two scales, weighed up on eyes, nose and mouth; features of the network
"loss" (features.py); a patch discriminator in the second half (hinge); a little KL. OUT/vae is a diffusers folder with
`scaling_factor` set so that latents have unit deviation.
"""

import argparse
import logging
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from engine.mini.architecture import new_vae
from engine.mini.train.augment import Portraits, draw, face_weight, plain
from engine.mini.train.features import FaceFeatures, load_features

log = logging.getLogger(__name__)
RATE = 6e-4
GAN_FROM = 0.4
STORED_CHIPS, DRAWN_AT_ONCE, RENEWED_EVERY = 6144, 128, 4


class Store:
    """Drawn chips, drawn again a few at a time: drawing takes longer than learning from them."""

    def __init__(self, portraits: Portraits, size: int, rng: torch.Generator) -> None:
        self._portraits, self._rng, self._place = portraits, rng, 0
        parts = [draw(portraits, DRAWN_AT_ONCE, rng, clean=0.5) for _ in range(max(1, size // DRAWN_AT_ONCE))]
        self._pictures = torch.cat([part.pictures.half() for part in parts])
        self._landmarks = torch.cat([part.landmarks for part in parts])

    def batch(self, n: int) -> tuple[Tensor, Tensor]:
        """`n` of them: pictures (n, 3, CANVAS, CANVAS) in -1..1 and landmarks (n, 68, 2)."""
        rows = torch.randint(len(self._pictures), (n,), device=self._pictures.device, generator=self._rng)
        return self._pictures[rows].float(), self._landmarks[rows]

    def renew(self) -> None:
        """Draws DRAWN_AT_ONCE of them again, the oldest."""
        drawn = draw(self._portraits, DRAWN_AT_ONCE, self._rng, clean=0.5)
        place = slice(self._place, self._place + DRAWN_AT_ONCE)
        self._pictures[place], self._landmarks[place] = drawn.pictures.half(), drawn.landmarks
        self._place = (self._place + DRAWN_AT_ONCE) % len(self._pictures)


class Patches(nn.Module):
    """Judges 16-pixel patches (PatchGAN), spectrally normalised."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        sizes = [3, 64, 128, 224, 224]
        layers: list[nn.Module] = []
        for i in range(4):
            layers += [norm(nn.Conv2d(sizes[i], sizes[i + 1], 4, 2 if i < 3 else 1, 1)), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Conv2d(sizes[-1], 1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.net(pictures)


def difference(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Weighted absolute difference of colours and of their gradients, at full and half size."""
    total = a.new_zeros(())
    for _ in range(2):
        error = (a - b).abs().mean(1, keepdim=True)
        steep_x = ((a - b)[..., 1:] - (a - b)[..., :-1]).abs().mean(1, keepdim=True)
        steep_y = ((a - b)[..., 1:, :] - (a - b)[..., :-1, :]).abs().mean(1, keepdim=True)
        total = (
            total + (error * weight).mean() + (steep_x * weight[..., 1:]).mean() + (steep_y * weight[..., 1:, :]).mean()
        )
        a, b, weight = (F.avg_pool2d(x, 2) for x in (a, b, weight))
    return total


def reconstruction_loss(
    vae: AutoencoderKL, x: Tensor, landmarks: Tensor, features: FaceFeatures
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss without the discriminator, the decoded pictures, the plain difference)."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        perceptual = features.distance(x, y).float().mean()
    y = y.float()
    weight = 0.7 + 1.8 * F.interpolate(face_weight(landmarks, 64, 4.0), x.shape[-2:], mode="bilinear")
    plain_error = difference(x, y, weight)
    kl = posterior.kl().float().mean() / (x.shape[-1] ** 2 / 4)
    return plain_error + 0.25 * perceptual + 1e-3 * kl, y, plain_error


def train_vae(
    portraits: Portraits, features: FaceFeatures, vae: AutoencoderKL, seconds: float, batch: int, gan_from: float
) -> AutoencoderKL:
    """Returns the moving average of the weights; the discriminator joins after the share `gan_from` of the time."""
    device = portraits.chips.device
    rng = torch.Generator(device).manual_seed(5)
    judge = Patches().to(device)
    average = {k: v.detach().clone() for k, v in vae.state_dict().items()}
    painter = torch.optim.AdamW(
        [p for p in vae.parameters() if p.requires_grad], RATE, betas=(0.9, 0.99), weight_decay=0.0
    )
    critic = torch.optim.AdamW(judge.parameters(), 2e-4, betas=(0.5, 0.9))
    start, step = time.time(), 0
    store = Store(portraits, STORED_CHIPS, rng)
    while (past := (time.time() - start) / seconds) < 1:
        for group in painter.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 100) * (0.02 + 0.98 * math.cos(past * math.pi / 2))
        with torch.no_grad():
            if step % RENEWED_EVERY == 0:
                store.renew()
            x, landmarks = store.batch(batch)
        loss, y, error = reconstruction_loss(vae, x, landmarks, features)
        is_late = past > gan_from
        if is_late:
            judge.requires_grad_(False)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = loss - 0.04 * judge(y).float().mean()
            judge.requires_grad_(True)
        painter.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        painter.step()
        if is_late:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                real, made = judge(x).float(), judge(y.detach()).float()
            critic.zero_grad()
            (F.relu(1 - real).mean() + F.relu(1 + made).mean()).backward()
            critic.step()
        if step % 4 == 0:
            own = vae.state_dict()
            torch._foreach_lerp_([average[k] for k in average], [own[k] for k in average], min(0.02, 8 / (step + 8)))
        if step % 100 == 0:
            log.info(
                "vae step %d loss %.4f difference %.4f %.0f s", step, loss.item(), error.item(), time.time() - start
            )
        step += 1
    log.info("vae done: %d steps of %d, loss %.4f", step, batch, loss.item())
    vae.load_state_dict(average)
    return vae


@torch.no_grad()
def set_scale(vae: AutoencoderKL, portraits: Portraits) -> None:
    """Writes `scaling_factor` = 1 / deviation of the latents of 1024 drawn chips."""
    rng = torch.Generator(portraits.chips.device).manual_seed(7)
    latents = torch.cat([vae.encode(draw(portraits, 64, rng).pictures).latent_dist.mean for _ in range(16)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))


@torch.no_grad()
def measure_vae(vae: AutoencoderKL, held_out: Portraits, judge: FaceFeatures) -> dict[str, float]:
    """Signal to noise (dB, over all pixels) and LPIPS-like error on the held-out portraits."""
    rows = torch.arange(len(held_out.chips) // 2, device=held_out.chips.device)
    x = plain(held_out, rows).pictures
    y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    psnr = -10 * math.log10(((x - y) / 2).square().mean().item())
    return {"psnr_db": psnr, "features": judge.distance(x, y).mean().item()}


def main() -> None:
    """Command line, see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chips")
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=220)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(3)
    torch.backends.cudnn.benchmark = True
    portraits = Portraits.load(args.chips, args.device)
    features = load_features(args.output, "loss", args.device)
    if args.decoder_only:
        vae = AutoencoderKL.from_pretrained(args.output / "vae", dtype=torch.float32)
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
        train_vae(portraits, features, vae.to(args.device).train(), args.seconds, args.batch, gan_from=0.02).eval()
    else:
        vae = new_vae().to(args.device)
        train_vae(portraits, features, vae, args.seconds, args.batch, gan_from=GAN_FROM).eval()
        set_scale(vae, portraits)
    if (args.output / "features_judge.pt").exists():
        held_out = Portraits.load(args.chips, args.device, held_out=True)
        measures = measure_vae(vae, held_out, load_features(args.output, "judge", args.device))
        log.info("vae held out %s scale %.4f", measures, vae.config.scaling_factor)
    vae.save_pretrained(args.output / ("vae_decoder" if args.decoder_only else "vae"))


if __name__ == "__main__":
    main()
