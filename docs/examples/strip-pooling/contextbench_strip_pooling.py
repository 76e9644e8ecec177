"""Strip pooling: weigh every pixel by the means of its row and of its column.

Source: Hou et al., CVPR 2020, arXiv:2003.13328, section 3.1.
    r_i = mean_j x_ij,  c_j = mean_i x_ij,              i over rows, j over columns
    y_ij = relu(bn(R * r)_i + bn(C * c)_j),             R and C convolve 3 neighbours
    z_ij = x_ij sigmoid(G y_ij),                        G is 1x1, the product goes by channel
Ours: x = relu(bn(W * layer4)), W is 3x3, (N, width, h, w); z is the context.
Departs: one module in place of a pyramid of mixed ones; batch norm behind R and C; a branch on
layer3 as in every head.
"""

import torch
from torch import Tensor, nn

from heads.blocks import Layer4Head, checked_implementation, conv_bn_relu
from heads.interface import Channels, Implementation


class StripPooling(nn.Module):
    """(N, C, h, w) -> (N, width, h, w)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(channels, width, 3)
        self.rows = _along(width, (3, 1))
        self.columns = _along(width, (1, 3))
        self.gate = nn.Conv2d(width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        x: Tensor = self.reduce(features)
        rows = self.rows(x.mean(dim=3, keepdim=True))  # (N, width, h, 1)
        columns = self.columns(x.mean(dim=2, keepdim=True))  # (N, width, 1, w)
        weights = torch.sigmoid(self.gate(torch.relu(rows + columns)))  # (N, width, h, w)
        return x * weights


def _along(width: int, kernel: tuple[int, int]) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2)
    convolution = nn.Conv2d(width, width, kernel, padding=padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width))


class StripPoolingHead(Layer4Head):
    """`implementation` makes no difference: there is one form."""

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        checked_implementation(implementation)
        context = StripPooling(channels.layer4, width)
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )
