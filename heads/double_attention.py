"""Double attention (A2-Nets): gather the map into a few regions, then deal them out to each pixel.

Source: Chen et al., NeurIPS 2018, arXiv:1810.11579, sections 3.1 to 3.3.
    x = relu(bn(W * layer4)),   a_i = phi(x_i)
    g_k = sum_i softmax_i(theta_k(x_i)) a_i             gather: over the pixels i, per region k
    z_i = sum_k softmax_k(rho_k(x_i)) g_k               distribute: over the regions k, per pixel i
    y_i = relu(bn(F [psi(z_i), x_i]))
Ours: theta and rho are 1x1 convolutions to K = `regions` maps; phi and psi, by which the paper's
block changes to `key_channels` and back, are 1x1 convolution, batch norm and ReLU.
Departs: the paper has plain convolutions for phi and psi and adds x inside a residual network.
This is the segmentation head to which Yuan et al. (arXiv:1909.11065, section 3) compare theirs:
reduced features, the context, and both fused, as in their other modules. K = 64 and 256 channels
are the natural pair with their parameters and FLOPs; they do not print it.
"""

import torch
from torch import Tensor, nn

from heads.attention import as_map
from heads.blocks import Layer4Head, ReducedContext, TwoForms, conv_bn_relu
from heads.interface import Attended, Channels, Features, Implementation

COMPOSED = "Weights of all pixels' phi(x_j) in what the pixel is dealt; sum 1"
REGIONS = (
    "Weights of the gathered regions that the pixel is dealt; sum 1. A region is where theta "
    "gathers it from: weights over the pixels, of sum 1"
)


class DoubleAttention(TwoForms):
    """psi(z): (N, C, h, w) -> (N, C, h, w).

    The weights that distribute sum to one, so the convolution of psi, bias included, may come
    before: the fast form convolves the K regions instead of all pixels.
    """

    def __init__(
        self, channels: int, key_channels: int, regions: int, implementation: Implementation
    ) -> None:
        super().__init__(implementation)
        self.phi = conv_bn_relu(channels, key_channels, bias=True)
        self.theta = nn.Conv2d(channels, regions, 1)
        self.rho = nn.Conv2d(channels, regions, 1)
        self.psi = conv_bn_relu(key_channels, channels, bias=True)

    def _fast(self, x: Tensor) -> Tensor:
        regions = self.psi.convolution(self._gather(x).unsqueeze(-1)).squeeze(-1)  # (N, C, K)
        return self.psi.activate(self._distribute(regions, x))

    def _reference(self, x: Tensor) -> Tensor:
        expanded: Tensor = self.psi(self._distribute(self._gather(x), x))
        return expanded

    def _gather(self, x: Tensor) -> Tensor:
        """The region features g: (N, key_channels, K)."""
        weights = self._gathering(x)
        return torch.einsum("nci,nki->nck", self.phi(x).flatten(2), weights)

    def _distribute(self, regions: Tensor, x: Tensor) -> Tensor:
        """(N, c, K) -> (N, c, h, w)."""
        return as_map(torch.einsum("nck,nki->nci", regions, self._dealing(x)), x)

    def _gathering(self, x: Tensor) -> Tensor:
        weights: Tensor = self.theta(x)
        return weights.flatten(2).softmax(dim=-1)  # (N, K, h w), over pixels, per region

    def _dealing(self, x: Tensor) -> Tensor:
        weights: Tensor = self.rho(x)
        return weights.flatten(2).softmax(dim=1)  # (N, K, h w), over regions, per pixel

    def attended(self, x: Tensor, pixel: tuple[int, int]) -> dict[str, Attended]:
        """What is dealt out to the pixel (row, column) of x, and what that was gathered from."""
        gathering = as_map(self._gathering(x), x)  # (N, K, h, w)
        dealing = as_map(self._dealing(x), x)[:, :, *pixel]  # (N, K)
        composed = torch.einsum("nk,nkhw->nhw", dealing, gathering)
        return {
            "attention": Attended(composed, COMPOSED),
            "regions": Attended(dealing, REGIONS, "region", gathering),
        }


class DoubleAttentionHead(Layer4Head):
    context: ReducedContext[DoubleAttention]

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        key_channels: int = 256,
        regions: int = 64,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        attention = DoubleAttention(width, key_channels, regions, implementation)
        context = ReducedContext(channels.layer4, width, attention, implementation, bias=True)
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )

    def _attend(self, features: Features, pixel: tuple[int, int]) -> dict[str, Attended]:
        return self.context.attention.attended(self.context.reduce(features.layer4), pixel)
