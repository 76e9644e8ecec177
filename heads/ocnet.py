"""Object context (OCNet, base-OC): every pixel gathers the pixels that resemble it.

Source: Yuan et al., arXiv:1809.00916, section 3, base-OC.
    x = relu(bn(W * layer4)),   q_i = query(x_i), k_j = key(x_j), v_j = value(x_j)
    a_ij = softmax_j(q_i . k_j / sqrt(d)),   c_i = U sum_j a_ij v_j,   y = relu(bn(F [c, x]))
Ours: i, j run over the h*w pixels of one image; query and key are 1x1 convolution, batch norm and
ReLU; d is `key_channels`. With `share_key_query`, as in the first release, query and key are one
transform (evaluated once: batch norm sees it once a step); without it they are two, as in later
descriptions of the method.
Departs: the released code starts U at zero; here every layer starts with the library's default.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.blocks import AuxiliaryBranch, PixelClassifier, checked_implementation, conv_bn_relu
from heads.interface import Channels, ContextHead, Features, HeadOutput, Implementation


class ObjectContext(nn.Module):
    """(N, C, h, w) -> (N, width, h, w).

    The reference form holds an (h w, h w) matrix per image. The fast form does not where a fused
    attention kernel applies; most ask for `key_channels` = `value_channels`, as in the paper.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        key_channels: int,
        value_channels: int,
        share_key_query: bool,
        implementation: Implementation,
    ) -> None:
        super().__init__()
        self.implementation = checked_implementation(implementation)
        self.reduce = conv_bn_relu(channels, width, 3, bias=True)
        self.key = conv_bn_relu(width, key_channels, bias=True)
        self.query = None if share_key_query else conv_bn_relu(width, key_channels, bias=True)
        self.value = nn.Conv2d(width, value_channels, 1)
        self.output = nn.Conv2d(value_channels, width, 1)
        self.fuse = conv_bn_relu(2 * width, width, bias=True)

    def forward(self, features: Tensor) -> Tensor:
        x = self.reduce(features)  # (N, width, h, w)
        key = self.key(x)
        query = key if self.query is None else self.query(x)
        attend = self._fast if self.implementation == "fast" else self._reference
        gathered = attend(query, key, self.value(x))
        fused: Tensor = self.fuse(torch.cat([self.output(gathered), x], dim=1))
        return fused

    @staticmethod
    def _reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = torch.einsum("ndi,ndj->nij", query.flatten(2), key.flatten(2))
        attention = (scores / math.sqrt(query.shape[1])).softmax(dim=-1)  # over the gathered pixels
        gathered = torch.einsum("nij,ncj->nci", attention, value.flatten(2))
        return gathered.view(*gathered.shape[:2], *query.shape[-2:])  # (N, value_channels, h, w)

    @staticmethod
    def _fast(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # The fused kernels need one heads axis and each pixel's channels next to each other.
        q, k, v = (
            t.flatten(2).transpose(1, 2).unsqueeze(1).contiguous() for t in (query, key, value)
        )
        gathered = F.scaled_dot_product_attention(q, k, v)  # (N, 1, h w, value_channels)
        return gathered.transpose(2, 3).reshape(*value.shape)


class OCNetHead(ContextHead):
    loss_weights: ClassVar[Mapping[str, float]] = {"aux": 0.4}

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        key_channels: int = 256,
        value_channels: int = 256,
        share_key_query: bool = True,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        super().__init__()
        self.context = ObjectContext(
            channels.layer4, width, key_channels, value_channels, share_key_query, implementation
        )
        self.classifier = PixelClassifier(width, num_classes, dropout)
        self.auxiliary = AuxiliaryBranch(
            channels.layer3, num_classes, width=aux_width, dropout=dropout
        )

    def forward(self, features: Features) -> HeadOutput:
        pixels = self.context(features.layer4)  # (N, width, h, w)
        aux = self.auxiliary(features.layer3)
        return HeadOutput(self.classifier(pixels), pixel_aux=aux, image_aux={})
