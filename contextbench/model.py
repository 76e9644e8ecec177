"""A backbone and a context head as one model, and what both training and evaluation do to it.

Axes: N images, K classes, (H, W) image pixels, (h, w) feature pixels, height first.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from contextbench.backbone import Backbone
from heads.interface import ContextHead, HeadOutput


class Segmenter(nn.Module):
    """Images (N, 3, H, W) to the head's output at feature resolution."""

    def __init__(self, backbone: Backbone, head: ContextHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> HeadOutput:
        output: HeadOutput = self.head(self.backbone(images))
        return output


def parameter_groups(
    model: Segmenter, *, lr: float, head_lr_factor: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimiser groups `backbone` and `head`; the head learns `head_lr_factor` times as fast.

    Weight decay is on every parameter, batch norm and biases included, as in the published recipes
    of all six heads.
    """
    parts = [("backbone", model.backbone, lr), ("head", model.head, lr * head_lr_factor)]
    return [
        {"name": name, "params": list(part.parameters()), "lr": rate, "weight_decay": weight_decay}
        for name, part, rate in parts
    ]


def resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (N, K, h, w) at `size` (H, W): bilinear, pixel corners not aligned.

    The one place where the interpolation of logits is chosen, for losses and evaluation alike.
    """
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
