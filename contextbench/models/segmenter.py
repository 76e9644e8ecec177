"""A backbone and a context head as one model, and what both training and evaluation do to it.

Axes: N images, K classes, (H, W) image pixels, (h, w) feature pixels, height first.
"""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contextbench.models.backbone import Backbone
from heads.interface import ContextHead, Features, HeadOutput


class Segmenter(nn.Module):
    """Images (N, 3, H, W) to the head's output at feature resolution.

    A frozen backbone is not trained: its parameters need no gradients, its batch norms keep their
    statistics, and several models may share it. Labels reach no head but one whose regions are the
    ground truth, an upper bound: `needs_labels`. `align_corners` is how its logits are to be
    resized: `resize_logits`.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: ContextHead,
        *,
        frozen: bool = False,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.backbone = backbone.requires_grad_(False).eval() if frozen else backbone
        self.head = head
        self.frozen = frozen

    @property
    def needs_labels(self) -> bool:
        """Whether predictions mean nothing without the labels of the images."""
        return self.head.ideal_regions > 0

    @property
    def trained_part(self) -> nn.Module:
        """What training changes: everything, or the head alone over a frozen backbone."""
        return self.head if self.frozen else self

    def with_part(self, part: nn.Module) -> "Segmenter":
        """The model with a copy of its trained part, such as an average of it, in its place."""
        if isinstance(part, Segmenter):
            return part
        assert isinstance(part, ContextHead)
        return Segmenter(self.backbone, part, frozen=True, align_corners=self.align_corners)

    def train(self, mode: bool = True) -> Self:
        """As any module, but that a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor | Features, labels: Tensor | None = None) -> HeadOutput:
        """Of images, or of their features where these are known already.

        `labels` (N, H', W') of the images, of any size; most heads never see them. A head that
        needs labels and gets none treats every pixel as ignored.
        """
        features: Features = images if isinstance(images, Features) else self.backbone(images)
        if labels is not None and self.needs_labels:
            size = (features.layer4.shape[-2], features.layer4.shape[-1])
            regions = ideal_regions(labels, self.head.ideal_regions, size)
            return self.head.forward_with_regions(features, regions)
        output: HeadOutput = self.head(features)
        return output


def parameter_groups(
    model: Segmenter, *, lr: float, head_lr_factor: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimiser groups `backbone` and `head`; the head learns `head_lr_factor` times as fast.

    Weight decay is on every parameter, batch norm and biases included, as in the published recipes
    of all six heads. Parameters that are frozen are in no group.
    """
    parts = [("backbone", model.backbone, lr), ("head", model.head, lr * head_lr_factor)]
    return [
        {
            "name": name,
            "params": [p for p in part.parameters() if p.requires_grad],
            "lr": rate,
            "weight_decay": weight_decay,
        }
        for name, part, rate in parts
    ]


def ideal_regions(labels: Tensor, num_classes: int, size: tuple[int, int]) -> Tensor:
    """One float map per class, 1 where the label is that class: (N, H, W) -> (N, K, h, w).

    Labels are resized to `size` by taking the one at each cell's centre, since logits are resized
    the other way as if they were there; mode `nearest` would take a corner. Ignored pixels are 0
    in every map.
    """
    nearest = F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")
    classes = torch.arange(num_classes, device=labels.device)[:, None, None]
    return (nearest == classes).float()


def resize_logits(logits: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Logits (N, K, h, w) at `size` (H, W): bilinear, pixel corners aligned only where asked.

    The one place where the interpolation of logits is chosen, for losses and evaluation alike.
    """
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
