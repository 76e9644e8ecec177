"""Object context (OCNet, base-OC): every pixel gathers the pixels that resemble it.

Source: Yuan et al., arXiv:1809.00916, section 3, base-OC.
    x = relu(bn(W * layer4)),   q_i = query(x_i), k_j = key(x_j), v_j = value(x_j)
    a_ij = softmax_j(q_i . k_j / sqrt(d)),   c_i = U sum_j a_ij v_j,   y = relu(bn(F [c, x]))
Ours: i, j run over the h*w pixels of one image; query and key are 1x1 convolution, batch norm and
ReLU; d is `key_channels`. With `share_key_query`, as in the first release, query and key are one
transform; without it they are two, as in later descriptions of the method.
Departs: the released code (OCNet.pytorch) starts U at zero and has leaky ReLU of slope 0.01, that
of in-place batch norm, in place of every ReLU. `release: authors` is that form; the default is the
paper's, with the library's start. Released dropout is 0.05, here 0.1 as for most heads. The
authors' later code has two transforms of two layers each: `share_key_query: false` and
`transforms: 2`.
"""

import torch
from torch import Tensor, nn

from heads.attention import DenseAttention, SelfAttention
from heads.blocks import Layer4Head, abn_activation, conv_bn_relu
from heads.interface import Attended, Channels, Features, Implementation, Release


class ObjectContext(nn.Module):
    """(N, C, h, w) -> (N, width, h, w)."""

    def __init__(
        self,
        channels: int,
        width: int,
        key_channels: int,
        value_channels: int,
        share_key_query: bool,
        transforms: int,
        release: Release,
        implementation: Implementation,
    ) -> None:
        super().__init__()
        activation = abn_activation(release)
        self.reduce = conv_bn_relu(channels, width, 3, bias=True, activation=activation)
        self.attention = SelfAttention(
            width,
            key_channels=key_channels,
            value_channels=value_channels,
            out_channels=width,
            share_key_query=share_key_query,
            attend=DenseAttention(implementation),
            release=release,
            transforms=transforms,
        )
        self.fuse = conv_bn_relu(2 * width, width, bias=True, activation=activation)

    def forward(self, features: Tensor) -> Tensor:
        x = self.reduce(features)  # (N, width, h, w)
        fused: Tensor = self.fuse(torch.cat([self.attention(x), x], dim=1))
        return fused


class OCNetHead(Layer4Head):
    context: ObjectContext

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        key_channels: int = 256,
        value_channels: int = 256,
        share_key_query: bool = True,
        transforms: int = 1,
        release: Release = "paper",
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        context = ObjectContext(
            channels.layer4,
            width,
            key_channels,
            value_channels,
            share_key_query,
            transforms,
            release,
            implementation,
        )
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )

    def _attend(self, features: Features, pixel: tuple[int, int]) -> dict[str, Attended]:
        row = self.context.attention.row(self.context.reduce(features.layer4), pixel)
        return {"attention": Attended(row, "Weights of the values of all pixels; sum 1")}
