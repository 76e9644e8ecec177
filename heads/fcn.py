"""FCN: no context module, a 3x3 convolution on the deepest features. The baseline.

Source: Long et al., CVPR 2015, arXiv:1411.4038, in the form that the papers of the other heads
compare with ("dilated FCN"): f = relu(bn(W * x)), x is layer4, (N, C4, h, w).
With `convolutions` L: f_l = relu(bn(W_l * f_(l-1))), f_0 = x; with `concat_input` the output is
relu(bn(V * [x, f_L])), V as large as W: with L = 2 the FCN of several code bases. `kernel: 1` makes
all of them 1x1, as on HRNet.
Departs: no skip connections, which dilation replaces; a branch on layer3 as in every head.
"""

from torch import Tensor, nn

from heads.blocks import ConvOverConcat, Layer4Head, checked_implementation, conv_bn_relu
from heads.interface import Channels, Implementation


class ConcatConvolutions(nn.Module):
    """(N, C, h, w) -> (N, width, h, w), convolutions and their fusion with their own input."""

    def __init__(
        self,
        channels: int,
        width: int,
        convolutions: int,
        kernel: int,
        implementation: Implementation,
    ) -> None:
        super().__init__()
        self.convolutions = stacked_convolutions(channels, width, convolutions, kernel)
        self.fuse = ConvOverConcat((channels, width), width, kernel, implementation)

    def forward(self, x: Tensor) -> Tensor:
        fused: Tensor = self.fuse(x, self.convolutions(x))
        return fused


def stacked_convolutions(
    channels: int, width: int, convolutions: int, kernel: int
) -> nn.Sequential:
    """Convolutions one after the other: (N, channels, h, w) -> (N, width, h, w)."""
    inputs = [channels] + [width] * (convolutions - 1)
    return nn.Sequential(*(conv_bn_relu(c, width, kernel, bias=True) for c in inputs))


class FCNHead(Layer4Head):
    """`implementation` makes a difference with `concat_input` only: the copy [x, f] is not made."""

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        convolutions: int = 1,
        concat_input: bool = False,
        kernel: int = 3,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        checked_implementation(implementation)
        if convolutions < 1:
            raise ValueError(f"convolutions must be 1 or more, got {convolutions}")
        if kernel not in (1, 3):
            raise ValueError(f"kernel must be 1 or 3, got {kernel}")
        context = (
            ConcatConvolutions(channels.layer4, width, convolutions, kernel, implementation)
            if concat_input
            else stacked_convolutions(channels.layer4, width, convolutions, kernel)
        )
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )
