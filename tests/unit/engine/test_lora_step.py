"""The training's own LoRA layers and its one step: the same numbers as peft's layers in a plain loop."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from engine import lora
from engine.config import TrainingConfig
from engine.lora_layers import Aside, _LinearWithLora
from engine.lora_step import LoraStep, StepNumbers
from tests.unit.engine.lora_updates import update

if TYPE_CHECKING:
    from engine.diffusion import Diffusion

CONFIG = TrainingConfig(rank=4, alpha=2, learning_rate=1e-3, batch=3, accumulation=1, clip_grad=0.05)
SHAPE = (3, 4, 16, 16)
NUMBERS = StepNumbers.of(CONFIG, SHAPE, "easyphoto_face, easyphoto, 1person")


def batch(number: int, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(number)
    timesteps = torch.randint(1000, shape[:1], generator=draw)
    return torch.randn(shape, generator=draw), torch.randn(shape, generator=draw), timesteps


def stepped(diffusion: Diffusion, numbers: StepNumbers, steps: int = 3, at_once: int | None = None) -> LoraStep:
    step = LoraStep(diffusion, numbers)
    step.at_once = at_once or step.at_once
    step.begin(seed=5)
    with step.lora.in_model():
        for number in range(steps):
            step(*batch(number))
    return step


def by_peft(diffusion: Diffusion, steps: int = 3) -> lora.State:
    """The plain loop: peft's layers, autograd, clipping, AdamW."""
    places = lora.modules(diffusion)
    torch.manual_seed(5)
    for model in (diffusion.unet, diffusion.text_encoder):
        targets = [path for of, path in places.values() if of is model]
        inject_adapter_in_model(LoraConfig(r=4, lora_alpha=2, target_modules=targets), model, "plain")
    layers = {name: model.get_submodule(path) for name, (model, path) in places.items()}
    pairs = {name: (layer.lora_A["plain"].weight, layer.lora_B["plain"].weight) for name, layer in layers.items()}
    groups = [
        {"params": [p for name, pair in pairs.items() if name.startswith(prefix) for p in pair], "lr": rate}
        for prefix, rate in ((lora.UNET, 1e-3), (lora.TEXT, 5e-4))
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=CONFIG.weight_decay)
    for number in range(steps):
        latents, noise, timesteps = batch(number)
        kept = diffusion.alphas_cumprod.float()[timesteps].view(-1, 1, 1, 1)
        text = diffusion.encode_text([NUMBERS.caption]).expand(len(latents), -1, -1)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        predicted = diffusion.unet(noisy, timesteps, text).sample
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(predicted, noise).backward()
        torch.nn.utils.clip_grad_norm_([p for pair in pairs.values() for p in pair], CONFIG.clip_grad)
        optimizer.step()
    for name, (model, path) in places.items():
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layers[name].get_base_layer())
    for model in (diffusion.unet, diffusion.text_encoder):
        del model.peft_config
    return {
        name + ending: weight.detach()
        for name, pair in pairs.items()
        for ending, weight in zip("AB", pair, strict=True)
    }


def test_the_steps_are_those_of_a_plain_loop_with_pefts_layers(random_diffusion: Diffusion) -> None:
    ours, theirs = stepped(random_diffusion, NUMBERS).lora.state(), by_peft(random_diffusion)
    for name in lora.names(ours):
        plain = 0.5 * theirs[name + "B"].flatten(1) @ theirs[name + "A"].flatten(1)
        difference = (update(ours, name) - plain).norm() / plain.norm()
        assert difference < 0.02, name  # Adam divides by small gradients, which magnifies their rounding


def test_pictures_one_by_one_make_the_step_of_one_true_batch(random_diffusion: Diffusion) -> None:
    together, apart = stepped(random_diffusion, NUMBERS), stepped(random_diffusion, NUMBERS, at_once=2)
    assert float(apart.loss) == pytest.approx(float(together.loss), rel=1e-5)
    one, other = together.lora.state(), apart.lora.state()
    for name in lora.names(one):
        difference = (update(one, name) - update(other, name)).norm() / update(one, name).norm()
        assert difference < 0.02, name  # Adam divides by small gradients, which magnifies their rounding


def test_recomputed_activations_give_the_same_gradients(random_diffusion: Diffusion) -> None:
    from engine.lora_step import _recomputing

    plain = stepped(random_diffusion, NUMBERS, steps=2)
    with _recomputing(random_diffusion.unet, wanted=True):
        sparing = stepped(random_diffusion, NUMBERS, steps=2)
    assert not random_diffusion.unet.is_gradient_checkpointing
    assert all(torch.equal(a, b) for a, b in zip(plain.lora.masters, sparing.lora.masters, strict=True))


def test_without_the_text_encoder_its_states_are_computed_once(random_diffusion: Diffusion) -> None:
    step = stepped(random_diffusion, replace(NUMBERS, text_encoder_rate=0.0))
    assert all(name.startswith(lora.UNET) for name in lora.names(step.lora.state()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(random_diffusion.text_encoder), "forward", None)
        with step.lora.in_model():
            step(*batch(9))


def test_nothing_of_a_training_stays_behind(random_diffusion: Diffusion) -> None:
    step = stepped(random_diffusion, NUMBERS)
    step.forget()
    assert all(not tensor.any() for tensor in [*step.lora.masters, *step.lora.worn, *step.saved()[1].values()])


def test_the_step_after_another_training_is_that_of_a_new_one(random_diffusion: Diffusion) -> None:
    step = stepped(random_diffusion, NUMBERS)
    first = step.lora.state()
    addresses = [tensor.data_ptr() for tensor in step.lora.worn]
    step.begin(seed=99)
    with step.lora.in_model():
        step(*batch(50))
    step.begin(seed=5)
    with step.lora.in_model():
        for number in range(3):
            step(*batch(number))
    assert all(torch.equal(value, first[key]) for key, value in step.lora.state().items())
    assert addresses == [tensor.data_ptr() for tensor in step.lora.worn]


def test_less_is_taken_at_once_until_it_fits(random_diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    step, tried = LoraStep(random_diffusion, replace(NUMBERS, batch_shape=(4, 4, 16, 16))), []

    def recorded() -> str:
        tried.append((step.at_once, step.recomputes, random_diffusion.unet.is_gradient_checkpointing))
        if len(tried) < 4:
            raise torch.cuda.OutOfMemoryError
        return "a recording"

    monkeypatch.setattr(step, "_recorded", recorded)
    assert step._recorded_as_fits() == "a recording"
    assert tried == [(4, False, False), (2, False, False), (1, False, False), (1, True, True)]

    def never() -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(step, "_recorded", never)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        step._recorded_as_fits()


def test_layers_in_one_sweep_give_autograds_gradients() -> None:
    draw = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    layer = SimpleNamespace(scale=0.5, aside=Aside(torch.device("cpu")))
    x, weight, bias, down, up = random(7, 5), random(6, 5), random(6), random(3, 5), random(6, 3)
    for tensor in (x, down, up):
        tensor.requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda *wanted: _LinearWithLora.apply(wanted[0], weight, bias, *wanted[1:], layer), (x, down, up)
    )
    plain = x @ weight.T + bias + 0.5 * (x @ down.T @ up.T)
    assert torch.allclose(_LinearWithLora.apply(x, weight, bias, down, up, layer), plain)


def test_layers_in_one_sweep_are_the_plain_layers(random_diffusion: Diffusion) -> None:
    """Convolutions as products of rows, too: one whole step both ways."""
    from engine.lora_layers import LoraLayer

    plain = stepped(random_diffusion, NUMBERS, steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoraLayer, "forward", LoraLayer._in_one_sweep)
        swept = stepped(random_diffusion, NUMBERS, steps=1)
    assert float(plain.loss) == pytest.approx(float(swept.loss), rel=1e-5)
    for one, other in zip(plain._gradients, swept._gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6 + 1e-4 * float(one.abs().max()))


def test_float16_losses_are_scaled_and_a_step_out_of_range_is_left_out(random_diffusion: Diffusion) -> None:
    exact = stepped(random_diffusion, NUMBERS, steps=1)
    networks = (copy.deepcopy(network).half() for network in (random_diffusion.unet, random_diffusion.text_encoder))
    half = stepped(replace(random_diffusion, unet=next(networks), text_encoder=next(networks)), NUMBERS, steps=1)
    assert float(half.loss) == pytest.approx(float(exact.loss), rel=0.01)
    alike = [
        torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)
        for a, b in zip(exact._gradients, half._gradients, strict=True)
        if a.any()
    ]
    assert min(alike) > 0.98
    before = [tensor.clone() for tensor in half.lora.masters]
    assert half._scaler is not None
    half._scaler.scale.fill_(2.0**40)
    with half.lora.in_model():
        half(*batch(1))
    assert all(torch.equal(a, b) for a, b in zip(before, half.lora.masters, strict=True))
    assert float(half._scaler.scale) == 2.0**39


def test_threads_that_share_a_batch_make_the_same_step(random_diffusion: Diffusion) -> None:
    before = torch.get_num_threads()
    try:
        losses = []
        for cores in (1, 3):
            torch.set_num_threads(cores)
            losses.append(float(stepped(random_diffusion, NUMBERS, steps=2).loss))
            assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_numbers_of_a_small_model_bend_the_step(random_diffusion: Diffusion) -> None:
    """LoRA+'s faster up matrices, min-SNR's weights, places that count more, and a rate that falls to nothing."""
    plain = stepped(random_diffusion, NUMBERS, steps=1)
    faster = stepped(random_diffusion, replace(NUMBERS, up_rate=4.0), steps=1)
    downs, ups = slice(0, None, 2), slice(1, None, 2)
    assert all(torch.allclose(a, b) for a, b in zip(plain.lora.masters[downs], faster.lora.masters[downs], strict=True))
    assert all(
        torch.allclose(4 * a, b, atol=1e-6)
        for a, b in zip(plain.lora.masters[ups], faster.lora.masters[ups], strict=True)
    )
    latents, noise, timesteps = batch(0)
    capped = LoraStep(random_diffusion, replace(NUMBERS, snr_cap=1.0))
    assert float(capped._weights.mean()) == pytest.approx(1, rel=1e-4)
    assert capped._weights[10] < 0.1 * capped._weights[900]
    with capped.lora.in_model():
        capped.begin(5)
        capped(latents, noise, timesteps, rate=0.0)
        assert not any(up.any() for up in capped.lora.masters[ups])
        everywhere = float(capped.loss)
        capped(latents, noise, timesteps, 2 * torch.ones(3, 1, 16, 16))
    assert float(capped.loss) == pytest.approx(2 * everywhere, rel=1e-5)
