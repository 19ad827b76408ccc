"""LoRA files and arithmetic, on the small model's networks with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file

from engine import lora
from engine.lora_layers import TrainableLora
from engine.mini.architecture import SCHEDULER
from tests.unit.engine.lora_updates import update

if TYPE_CHECKING:
    from engine.diffusion import Diffusion


def trained(diffusion: Diffusion, seed: int, rank: int = 4, alpha: int = 2, strength: float = 0.05) -> lora.State:
    """A LoRA as training leaves it: the up matrices are no longer zero."""
    new = TrainableLora.of(diffusion, rank, alpha, text_encoder=True)
    new.begin(seed)
    state = new.state()
    draw = torch.Generator().manual_seed(seed)
    for key, value in state.items():
        if key.endswith(lora.UP):
            state[key] = torch.randn(value.shape, generator=draw) * strength
    return state


def predicted(diffusion: Diffusion) -> torch.Tensor:
    draw = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 4, 32, 32, generator=draw)
    with torch.no_grad():
        return diffusion.unet(latents, 500, diffusion.encode_text(["easyphoto, 1person"])).sample


def test_a_new_lora_changes_nothing_and_acts_on_the_references_modules(random_diffusion: Diffusion) -> None:
    before = predicted(random_diffusion)
    new = TrainableLora.of(random_diffusion, 4, 2, text_encoder=True)
    new.begin(seed=1)
    with new.in_model():  # its 1x1 convolutions are computed as matrix products, which round otherwise
        assert torch.allclose(predicted(random_diffusion), before, rtol=0, atol=1e-5)
    layers = lora.names(new.state())
    endings = {name.split("attentions_0_")[-1] for name in layers if "up_blocks_0_attentions_0" in name}
    attention = {f"transformer_blocks_0_attn{n}_to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out_0")}
    feed_forward = {"transformer_blocks_0_ff_net_0_proj", "transformer_blocks_0_ff_net_2"}
    assert endings == attention | feed_forward | {"proj_in", "proj_out"}
    assert sum(name.startswith(lora.TEXT) for name in layers) == 6 * 3  # six linear layers in three layers
    assert all(p.dtype == torch.float32 and p.requires_grad for p in new.masters)


def test_the_seed_alone_decides_the_first_weights(random_diffusion: Diffusion) -> None:
    torch.manual_seed(1)
    one = trained(random_diffusion, seed=3)
    torch.manual_seed(2)
    again, other = trained(random_diffusion, seed=3), trained(random_diffusion, seed=4)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("at_once", [1, lora.AT_ONCE])
def test_an_applied_lora_equals_changed_weights_and_leaves_no_trace(
    random_diffusion: Diffusion, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "AT_ONCE", at_once)
    state, before = trained(random_diffusion, 1), predicted(random_diffusion)
    with lora.applied(random_diffusion, state, 0.7):
        with_lora = predicted(random_diffusion)
    assert torch.equal(predicted(random_diffusion), before)
    assert (with_lora - before).abs().max() > 1e-3
    places = lora.modules(random_diffusion)
    weights = {name: model.get_submodule(path).weight for name, (model, path) in places.items()}
    kept = {name: weight.clone() for name, weight in weights.items()}
    for name, weight in weights.items():
        weight += 0.7 * update(state, name).reshape(weight.shape)
    changed = predicted(random_diffusion)
    for name, weight in weights.items():
        weight.copy_(kept[name])
    assert torch.allclose(with_lora, changed, atol=2e-5)


def test_a_few_step_lora_reaches_convolutions_too(random_diffusion: Diffusion) -> None:
    """LCM's and Hyper-SD's name 3x3 convolutions and time projections; their down part has the kernel."""
    resnet = random_diffusion.unet.down_blocks[0].resnets[0]
    out, into = resnet.conv1.weight.shape[:2]
    conv, projection = "lora_unet_down_blocks_0_resnets_0_conv1", "lora_unet_down_blocks_0_resnets_0_time_emb_proj"
    state = {
        conv + lora.DOWN: torch.randn(4, into, 3, 3),
        conv + lora.UP: torch.randn(out, 4, 1, 1),
        conv + lora.ALPHA: torch.tensor(2.0),
        projection + lora.DOWN: torch.randn(4, resnet.time_emb_proj.in_features),
        projection + lora.UP: torch.randn(resnet.time_emb_proj.out_features, 4),
    }
    features, emb = torch.randn(1, into, 8, 8), torch.randn(1, resnet.time_emb_proj.in_features)
    own = resnet.conv1(features), resnet.time_emb_proj(emb)
    down = torch.nn.functional.conv2d(features, state[conv + lora.DOWN], padding=1)
    expected = own[0] + 0.5 * 0.5 * torch.nn.functional.conv2d(down, state[conv + lora.UP])
    with lora.applied(random_diffusion, state, 0.5):
        assert torch.allclose(resnet.conv1(features), expected, atol=1e-4)
        added = 0.5 * emb @ state[projection + lora.DOWN].T @ state[projection + lora.UP].T
        assert torch.allclose(resnet.time_emb_proj(emb), own[1] + added, atol=1e-4)
    assert torch.equal(resnet.conv1(features), own[0])


def test_two_loras_work_at_once(random_diffusion: Diffusion) -> None:
    one, two = trained(random_diffusion, 1), trained(random_diffusion, 2)
    wide = {  # both side by side: the same sum of products
        key: torch.cat(
            [0.7 * one[key] if key.endswith(lora.UP) else one[key], two[key]], 1 if key.endswith(lora.UP) else 0
        )
        for key in one
        if one[key].ndim
    }
    scale = float(one[next(key for key in one if key.endswith(lora.ALPHA))]) / one[next(iter(wide))].shape[0]
    wide = {key: value * scale if key.endswith(lora.UP) else value for key, value in wide.items()}
    with lora.applied(random_diffusion, wide, 1.0):
        expected = predicted(random_diffusion)
    with lora.applied(random_diffusion, one, 0.7), lora.applied(random_diffusion, two, 1.0):
        assert torch.allclose(predicted(random_diffusion), expected, atol=2e-5)


def test_an_applied_lora_is_removed_after_an_error_too(random_diffusion: Diffusion) -> None:
    before = predicted(random_diffusion)
    with pytest.raises(KeyboardInterrupt), lora.applied(random_diffusion, trained(random_diffusion, 1), 1.0):
        raise KeyboardInterrupt
    assert torch.equal(predicted(random_diffusion), before)


def test_merging_averages_the_updates_not_the_factors(random_diffusion: Diffusion) -> None:
    states = [trained(random_diffusion, seed, rank=2, alpha=2 * seed) for seed in (1, 2)]
    wide = [
        {
            k: torch.cat([v, torch.zeros_like(v)], dim=1 if k.endswith(lora.UP) else 0) if v.ndim else v * 2
            for k, v in s.items()
        }
        for s in states
    ]  # the same updates with room for both in the rank
    merged = lora.merge(wide, (0.3, 0.7))
    for name in lora.names(merged):
        dense = 0.3 * update(states[0], name) + 0.7 * update(states[1], name)
        assert torch.allclose(update(merged, name), dense, atol=1e-5), name
    assert {k: v.shape for k, v in merged.items()} == {k: v.shape for k, v in wide[0].items()}


def test_merging_beyond_the_rank_is_nearly_the_best_that_the_rank_allows(random_diffusion: Diffusion) -> None:
    """Of LoRAs that have nothing in common, and of checkpoints of one training."""
    unlike = [trained(random_diffusion, seed) for seed in (1, 2, 3)]
    along = [{k: unlike[0][k] + 0.1 * other[k] for k in other} for other in unlike]
    along = [{**state, **alphas(unlike[0])} for state in along]
    for states, worst, together in ((unlike, 1.1, 1.03), (along, 1.1, 1.02)):
        merged = lora.merge(states, (1 / 3, 1 / 3, 1 / 3))
        errors, least = [], []
        for name in lora.names(merged):
            dense = sum(update(state, name) for state in states) / 3
            assert isinstance(dense, torch.Tensor)
            errors.append(float(torch.linalg.norm(update(merged, name) - dense)))
            least.append(float(torch.linalg.svdvals(dense)[4:].square().sum().sqrt()))
        assert all(error < worst * best for error, best in zip(errors, least, strict=True))
        assert np.linalg.norm(errors) < together * np.linalg.norm(least)


def alphas(state: lora.State) -> lora.State:
    return {key: value for key, value in state.items() if key.endswith(lora.ALPHA)}


def test_merging_one_with_weight_one_gives_it_back(random_diffusion: Diffusion) -> None:
    state = trained(random_diffusion, 1)
    merged = lora.merge([state], [1.0])
    for name in lora.names(state):
        assert torch.allclose(update(merged, name), update(state, name), atol=1e-5)


def test_a_saved_lora_is_what_web_uis_know(random_diffusion: Diffusion, tmp_path: Path) -> None:
    path, state = tmp_path / "lora.safetensors", trained(random_diffusion, 1)
    lora.save_kohya(path, state, {"trigger": "easyphoto"})
    first = path.read_bytes()
    lora.save_kohya(path, state, {"trigger": "easyphoto"})
    assert path.read_bytes() == first
    loaded = lora.load_kohya(path)
    assert loaded.keys() == state.keys()
    assert all(torch.allclose(loaded[k], state[k], atol=1e-3) for k in state)
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0.lora_up.weight" in loaded
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight" in loaded
    assert float(loaded["lora_unet_mid_block_attentions_0_proj_in.alpha"]) == 2


def pipeline(diffusion: Diffusion) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline(
        vae=diffusion.vae,
        text_encoder=diffusion.text_encoder,
        tokenizer=diffusion.tokenizer,
        unet=diffusion.unet,
        scheduler=DDIMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def painted(pipe: StableDiffusionPipeline) -> np.ndarray:
    options = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "np", "guidance_scale": 5.0}
    picture = pipe("easyphoto_face, easyphoto, 1person", generator=torch.Generator().manual_seed(1), **options).images[
        0
    ]
    return np.rint(picture * 255)


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_diffusers_loads_our_file_and_paints_the_same_picture(
    layout: str, random_diffusion: Diffusion, tmp_path: Path
) -> None:
    subject, exported = tmp_path / "subject", tmp_path / "exported.safetensors"
    lora.save_kohya(subject / "lora.safetensors", trained(random_diffusion, 1, strength=0.2), {})
    described = lora.export_file(subject, exported, None if layout == "kohya" else random_diffusion)
    assert described["modules"] == len(lora.modules(random_diffusion))
    pipe = pipeline(random_diffusion)
    plain = painted(pipe)
    with lora.applied(random_diffusion, exported, 1.0):
        ours = painted(pipe)
    pipe.load_lora_weights(tmp_path, weight_name=exported.name)
    theirs = painted(pipe)
    pipe.unload_lora_weights()
    assert np.abs(ours - plain).max() > 20
    assert np.abs(ours - theirs).max() <= 2


def test_a_file_of_another_program_becomes_a_subjects_lora(random_diffusion: Diffusion, tmp_path: Path) -> None:
    """Ranks that differ by layer, layers that this model lacks, and no alpha, as in files found in the wild."""
    state = trained(random_diffusion, 1)
    name = next(iter(lora.names(state)))
    state[name + lora.DOWN] = torch.cat([state[name + lora.DOWN]] * 2, 0)
    state[name + lora.UP] = torch.cat([state[name + lora.UP]] * 2, 1)
    del state[name + lora.ALPHA]
    foreign = {"lora_unet_no_such_layer" + ending: torch.ones(4, 4) for ending in (lora.DOWN, lora.UP)}
    save_file({**state, **foreign}, tmp_path / "theirs.safetensors")
    lora.import_file(tmp_path / "theirs.safetensors", tmp_path / "subject")
    before = predicted(random_diffusion)
    with lora.applied(random_diffusion, tmp_path / "subject" / "lora.safetensors", 1.0):
        assert not torch.equal(predicted(random_diffusion), before)


def test_what_is_no_lora_for_this_model_is_a_sentence(random_diffusion: Diffusion, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    for file in ("text.safetensors", "other.safetensors", "absent.safetensors"):
        with pytest.raises(lora.UnknownLora):
            lora.load_kohya(tmp_path / file)
    elsewhere = {"lora_unet_elsewhere" + end: torch.ones(2, 2) for end in (lora.DOWN, lora.UP)}
    with pytest.raises(lora.UnknownLora), lora.applied(random_diffusion, elsewhere, 1.0):
        pass
