"""Makes PyPI's torchvision importable beside a CPU build of torch.

That wheel is linked against CUDA: beside a CPU build its operators do not load, `import torchvision` fails, and with it
everything that looks for torchvision (transformers, diffusers, peft). Declaring the two operators that its Python code
registers a fake for lets it import; `nms` works, the other compiled operators raise when called.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@cache  # the library object must live as long as the process: dropping it takes the operators back
def install() -> torch.library.Library | None:
    """Call before anything imports torchvision, transformers or diffusers. Does nothing (and imports nothing) where
    torchvision is not installed, nothing where torch has CUDA."""
    if find_spec("torchvision") is None:
        return None
    import torch

    if torch.version.cuda is not None:
        return None
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", suppressed, "CPU")
    return library


def suppressed(boxes: torch.Tensor, scores: torch.Tensor, most_overlap: float) -> torch.Tensor:
    """Non-maximum suppression: indices of the boxes (n, 4) to keep, best score first."""
    import torch

    left, top, right, bottom = boxes.unbind(1)
    areas = (right - left) * (bottom - top)
    order = scores.argsort(descending=True)
    kept: list[torch.Tensor] = []
    while order.numel():
        best, rest = order[0], order[1:]
        kept.append(best)
        width = (torch.minimum(right[best], right[rest]) - torch.maximum(left[best], left[rest])).clamp(min=0)
        height = (torch.minimum(bottom[best], bottom[rest]) - torch.maximum(top[best], top[rest])).clamp(min=0)
        common = width * height
        order = rest[common / (areas[best] + areas[rest] - common) <= most_overlap]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.long)
