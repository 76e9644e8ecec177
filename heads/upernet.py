"""UPerNet: a pyramid of features over all stages, with pyramid pooling at its top.

Source: Xiao et al., ECCV 2018, arXiv:1807.10221, section 3.1, for segmentation alone.
    t_4 = pyramid pooling of layer4 (see `ppm`),   t_s = relu(bn(L_s layer_s)) + up(t_(s+1)), s < 4
    p_4 = t_4,   p_s = relu(bn(P_s * t_s)), s < 4
    y = relu(bn(F * [p_1, up(p_2), up(p_3), up(p_4)])),   L_s is 1x1, P_s and F are 3x3
Ours: layer_s is a stage of the backbone, of 1/4 of the image's size (s = 1) down to the output
stride, 32 in the paper; up is bilinear; the logits have the size of layer1; all widths are `width`,
512 in the paper, those of the pooled branches included.
Departs: resizing without aligned corners, as in every head here, unless `align_corners`; and
supervision of layer3, which the authors' code does not have.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.blocks import Layer4Head, TwoForms, conv_bn_relu, resize_like
from heads.interface import Channels, Features, Implementation
from heads.ppm import PyramidPooling


class FusedStages(TwoForms):
    """relu(bn(F * [p_1, up(p_2), ..., up(p_S)])): maps (N, width, ., .) -> the size of the first.

    The fast form convolves one resized map at a time, F = [F_1, ..., F_S], and holds no more.
    """

    def __init__(
        self, stages: int, width: int, implementation: Implementation, *, align_corners: bool
    ) -> None:
        super().__init__(implementation)
        self.align_corners = align_corners
        self.width = width
        self.fuse = conv_bn_relu(stages * width, width, 3)

    def _fast(self, first: Tensor, *others: Tensor) -> Tensor:
        own, *weights = torch.split(self.fuse.convolution.weight, self.width, dim=1)
        total = F.conv2d(first, own, padding=1)
        for part, weight in zip(others, weights, strict=True):
            total += F.conv2d(self._resized(part, first), weight, padding=1)
        return self.fuse.activate(total)

    def _reference(self, first: Tensor, *others: Tensor) -> Tensor:
        resized = [self._resized(part, first) for part in others]
        fused: Tensor = self.fuse(torch.cat([first, *resized], dim=1))
        return fused

    def _resized(self, part: Tensor, first: Tensor) -> Tensor:
        return resize_like(part, first, align_corners=self.align_corners)


class FeaturePyramid(nn.Module):
    """The four stages -> (N, width, H, W), the size of layer1."""

    def __init__(
        self,
        channels: Channels,
        width: int,
        bins: Sequence[int],
        implementation: Implementation,
        *,
        align_corners: bool,
    ) -> None:
        super().__init__()
        earlier = channels[:3]
        self.align_corners = align_corners
        self.top = PyramidPooling(
            channels.layer4, width, bins, width, implementation, align_corners=align_corners
        )
        self.laterals = nn.ModuleList(conv_bn_relu(stage, width) for stage in earlier)
        self.pyramid = nn.ModuleList(conv_bn_relu(width, width, 3) for _ in earlier)
        self.fuse = FusedStages(len(channels), width, implementation, align_corners=align_corners)

    def forward(self, layer1: Tensor, layer2: Tensor, layer3: Tensor, layer4: Tensor) -> Tensor:
        above: Tensor = self.top(layer4)
        maps = [above]  # from the top down
        stages = zip((layer1, layer2, layer3), self.laterals, self.pyramid, strict=True)
        for stage, lateral, smooth in reversed(list(stages)):
            own = lateral(stage)
            above = own + resize_like(above, own, align_corners=self.align_corners)
            maps.append(smooth(above))
        fused: Tensor = self.fuse(*reversed(maps))
        return fused


class UPerNetHead(Layer4Head):
    """`bins` are one or more positive grid sizes (ValueError otherwise).

    Training needs a batch of at least 2 when `bins` has a 1 (ValueError otherwise).
    """

    logits_stage: ClassVar[str] = "layer1"

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        width: int = 512,
        align_corners: bool = False,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        if not bins or min(bins) < 1:
            raise ValueError(f"bins must be one or more positive grid sizes, got {list(bins)}")
        context = FeaturePyramid(channels, width, bins, implementation, align_corners=align_corners)
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )

    def context_inputs(self, features: Features) -> tuple[Tensor, ...]:
        return tuple(features)
