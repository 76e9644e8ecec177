"""Object-contextual representations (OCR): describe each class in the image, then each pixel by
the classes it resembles.

Source: Yuan et al., ECCV 2020, arXiv:1909.11065, section 3.2.
    m_ki = softmax_i(coarse_ki)                     soft object region k, over the pixels i
    f_k = sum_i m_ki x_i                            region representation
    w_ik = softmax_k(phi(x_i) . psi(f_k) / sqrt(d)) relation of pixel i and region k
    y_i = rho(sum_k w_ik delta(f_k)),   z_i = g([y_i, x_i])
Ours: x = relu(bn(W * layer4)); coarse are logits predicted from layer3; phi, psi, delta, rho, g are
1x1 convolution, batch norm and ReLU (one layer each, as in the paper); d is `key_channels`.
Departs: the paper's formula has no 1 / sqrt(d); the authors' code has it, and so have we.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from heads.blocks import (
    PixelBranch,
    PixelClassifier,
    checked_implementation,
    conv_bn_relu,
    resize_like,
)
from heads.interface import Channels, ContextHead, Features, HeadOutput, Implementation


class ObjectContextualRepresentation(nn.Module):
    """Deep features (N, C, h, w) and coarse logits (N, K, h, w) -> (N, width, h, w)."""

    def __init__(self, channels: int, width: int, key_channels: int) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(channels, width, 3, bias=True)
        self.phi = conv_bn_relu(width, key_channels, bias=True)
        self.psi = conv_bn_relu(width, key_channels, bias=True)
        self.delta = conv_bn_relu(width, key_channels, bias=True)
        self.rho = conv_bn_relu(key_channels, width, bias=True)
        self.fuse = conv_bn_relu(2 * width, width, bias=True)

    def forward(self, features: Tensor, coarse: Tensor) -> Tensor:
        x = self.reduce(features)  # (N, width, h, w)
        regions = self._regions(x, coarse).unsqueeze(-1)  # (N, width, K, 1)
        gathered = self._relate(self.phi(x), self.psi(regions), self.delta(regions))
        fused: Tensor = self.fuse(torch.cat([self.rho(gathered), x], dim=1))
        return fused

    @staticmethod
    def _regions(x: Tensor, coarse: Tensor) -> Tensor:
        masks = coarse.flatten(2).softmax(dim=-1)  # over pixels, per class
        return torch.einsum("nki,nci->nck", masks, x.flatten(2))

    @staticmethod
    def _relate(pixels: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        scores = torch.einsum("ndi,ndk->nik", pixels.flatten(2), keys.flatten(2))
        relation = (scores / math.sqrt(pixels.shape[1])).softmax(dim=-1)  # over regions, per pixel
        gathered = torch.einsum("nik,nck->nci", relation, values.flatten(2))
        return gathered.view(*gathered.shape[:2], *pixels.shape[-2:])  # (N, key_channels, h, w)


class OCRHead(ContextHead):
    """`coarse` is emitted in both modes: it is supervised and it defines the object regions.

    It takes the place of the other heads' `aux`: the same branch on layer3, of `aux_width`.
    `implementation` makes no difference: relating pixels to K regions is 0.1 % of the work for
    K = 19, so a fused attention kernel has nothing to save.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {"coarse": 0.4}

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        key_channels: int = 256,
        aux_width: int | None = None,
        dropout: float = 0.05,
        implementation: Implementation = "fast",
    ) -> None:
        super().__init__()
        checked_implementation(implementation)
        self.coarse = PixelBranch(channels.layer3, num_classes, width=aux_width, dropout=dropout)
        self.context = ObjectContextualRepresentation(channels.layer4, width, key_channels)
        self.classifier = PixelClassifier(width, num_classes, dropout)

    def context_inputs(self, features: Features) -> tuple[Tensor, ...]:
        return self._with_regions(features, self.coarse(features.layer3))

    def forward(self, features: Features) -> HeadOutput:
        coarse = self.coarse(features.layer3)  # (N, K, h, w)
        pixels = self.context(*self._with_regions(features, coarse))  # (N, width, h, w)
        return HeadOutput(self.classifier(pixels), pixel_aux={"coarse": coarse}, image_aux={})

    @staticmethod
    def _with_regions(features: Features, coarse: Tensor) -> tuple[Tensor, Tensor]:
        # At output stride 32 layer3 is larger than layer4.
        return features.layer4, resize_like(coarse, features.layer4)
