"""DeepLabv3+: atrous pyramid, and a decoder that puts it beside an early stage.

Source: Chen et al., ECCV 2018, arXiv:1802.02611, sections 3.1 and 4.1.
    e = the atrous pyramid of layer4 (see `aspp`),   l = relu(bn(L layer1))
    y = relu(bn(D_2 * relu(bn(D_1 * [up(e), l])))),   L is 1x1, D_1 and D_2 are 3x3
Ours: layer1, (N, C1, H/4, W/4), is the stage that the paper calls Conv2; l has `low_channels`,
published as 48; up is bilinear; the logits have the size of layer1. The default dilations 12, 24,
36 are for output stride 8; the paper has half of them at 16. With `separable` the atrous
convolutions, D_1 and D_2 are 3x3 convolutions of each channel and 1x1 ones, with batch norm and
ReLU after both, as in the paper's fastest models.
Forms of other code, by option: `fuse_kernel: 3` has a 3x3 convolution behind the pyramid and, with
`separable` and a width of 512, is mmsegmentation's.
Departs: resizing without aligned corners, as in every head here, unless `align_corners`; and
supervision of layer3.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from heads.aspp import AtrousPyramid, checked_fuse_kernel
from heads.blocks import (
    ConvOverConcat,
    Layer4Head,
    SeparableConvBnRelu,
    conv_bn_relu,
    resize_like,
)
from heads.interface import Channels, Features, Implementation


class PyramidDecoder(nn.Module):
    """(N, C1, H, W), (N, C4, h, w) -> (N, width, H, W)."""

    def __init__(
        self,
        channels: Channels,
        width: int,
        low_channels: int,
        encoder: AtrousPyramid,
        implementation: Implementation,
        *,
        separable: bool,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.encoder = encoder
        self.low = conv_bn_relu(channels.layer1, low_channels)
        self.fuse = (
            SeparableConvBnRelu(width + low_channels, width)
            if separable
            else ConvOverConcat([width, low_channels], width, 3, implementation)
        )
        self.refine = (
            SeparableConvBnRelu(width, width) if separable else conv_bn_relu(width, width, 3)
        )

    def forward(self, layer1: Tensor, layer4: Tensor) -> Tensor:
        aligned = self.align_corners
        encoded = resize_like(self.encoder(layer4), layer1, align_corners=aligned)
        parts = encoded, self.low(layer1)
        together = isinstance(self.fuse, SeparableConvBnRelu)
        fused = self.fuse(torch.cat(parts, dim=1)) if together else self.fuse(*parts)
        refined: Tensor = self.refine(fused)
        return refined


class DeepLabV3PlusHead(Layer4Head):
    """Training with `image_pooling` needs a batch of at least 2 (ValueError otherwise).

    `fuse_kernel` is 1 or 3 (ValueError otherwise).
    """

    logits_stage: ClassVar[str] = "layer1"

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        dilations: Sequence[int] = (12, 24, 36),
        width: int = 256,
        low_channels: int = 48,
        image_pooling: bool = True,
        separable: bool = False,
        fuse_kernel: int = 1,
        align_corners: bool = False,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        encoder = AtrousPyramid(
            channels.layer4,
            width,
            dilations,
            implementation,
            image_pooling=image_pooling,
            fuse_kernel=checked_fuse_kernel(fuse_kernel),
            separable=separable,
        )
        context = PyramidDecoder(
            channels,
            width,
            low_channels,
            encoder,
            implementation,
            separable=separable,
            align_corners=align_corners,
        )
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )

    def context_inputs(self, features: Features) -> tuple[Tensor, ...]:
        return features.layer1, features.layer4
